"""leakscope measures what distributed training leaks.

The public surface, imported on first use: reading records and writing reports needs no torch.

>>> import leakscope as ls
>>> ls.FedSGD() >> ls.Clip(1.0)
FedSGD() >> Clip(norm=1.0, order=2)
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from leakscope.homes import Home, homes
from leakscope.version import VERSION as __version__

if TYPE_CHECKING:
    from leakscope.attacks.attack import AbstractAttack as AbstractAttack
    from leakscope.attacks.attributes.classifier import AttributeClassifier as AttributeClassifier
    from leakscope.attacks.attributes.encoder import AbstractSpeakerEncoder as AbstractSpeakerEncoder
    from leakscope.attacks.attributes.encoder import CepstralMoments as CepstralMoments
    from leakscope.attacks.attributes.rescnn import ResCNN as ResCNN
    from leakscope.attacks.attributes.resemblyzer import Resemblyzer as Resemblyzer
    from leakscope.attacks.attributes.speaker import SpeakerIdentity as SpeakerIdentity
    from leakscope.attacks.inputs.dense.linear import LinearLayer as LinearLayer
    from leakscope.attacks.inputs.dense.lowrank import LowRank as LowRank
    from leakscope.attacks.inputs.frames.exact.windowed_frames import WindowedFrames as WindowedFrames
    from leakscope.attacks.inputs.frames.long.long_frames import LongFrames as LongFrames
    from leakscope.attacks.inputs.frames.probable.frame_likelihood import FrameLikelihood as FrameLikelihood
    from leakscope.attacks.inputs.heads.head_features import HeadFeatures as HeadFeatures
    from leakscope.attacks.inputs.heads.head_images import HeadImages as HeadImages
    from leakscope.attacks.inputs.layer_by_layer.feature_images import FeatureImages as FeatureImages
    from leakscope.attacks.inputs.layer_by_layer.feature_neighbors import FeatureNeighbors as FeatureNeighbors
    from leakscope.attacks.inputs.layer_by_layer.revealed_features import RevealedFeatures as RevealedFeatures
    from leakscope.attacks.inputs.layered.recursive import Recursive as Recursive
    from leakscope.attacks.inputs.matching.feature_inversion import FeatureInversion as FeatureInversion
    from leakscope.attacks.inputs.matching.image_recipes import dlg as dlg
    from leakscope.attacks.inputs.matching.image_recipes import grad_inversion as grad_inversion
    from leakscope.attacks.inputs.matching.image_recipes import idlg as idlg
    from leakscope.attacks.inputs.matching.image_recipes import inverting_gradients as inverting_gradients
    from leakscope.attacks.inputs.matching.inversion import GradientInversion as GradientInversion
    from leakscope.attacks.inputs.patches.first_attention import FirstAttention as FirstAttention
    from leakscope.attacks.inputs.text.embedding_rows import EmbeddingRows as EmbeddingRows
    from leakscope.attacks.inputs.text.embedding_span import EmbeddingSpan as EmbeddingSpan
    from leakscope.attacks.labels.counts import LabelCounts as LabelCounts
    from leakscope.attacks.labels.revealed import RevealedLabels as RevealedLabels
    from leakscope.attacks.labels.rlg import RLG as RLG
    from leakscope.attacks.labels.rlg import LinearPrograms as LinearPrograms
    from leakscope.attacks.labels.rlg import Perceptrons as Perceptrons
    from leakscope.attacks.labels.signs import LabelSigns as LabelSigns
    from leakscope.attacks.parts.distance.distances import L1 as L1
    from leakscope.attacks.parts.distance.distances import Cosine as Cosine
    from leakscope.attacks.parts.distance.distances import Layers as Layers
    from leakscope.attacks.parts.distance.distances import OnSupport as OnSupport
    from leakscope.attacks.parts.distance.distances import Squared as Squared
    from leakscope.attacks.parts.distance.distances import Weighted as Weighted
    from leakscope.attacks.parts.labeling.labeling import Inferred as Inferred
    from leakscope.attacks.parts.labeling.labeling import Joint as Joint
    from leakscope.attacks.parts.labeling.labeling import Told as Told
    from leakscope.attacks.parts.priors.images import Energy as Energy
    from leakscope.attacks.parts.priors.images import Range as Range
    from leakscope.attacks.parts.priors.images import TotalVariation as TotalVariation
    from leakscope.attacks.parts.priors.prior import Flat as Flat
    from leakscope.attacks.parts.priors.speech import SpeechPrior as SpeechPrior
    from leakscope.attacks.parts.priors.statistics import BatchNorm as BatchNorm
    from leakscope.attacks.parts.search.first_order import LBFGS as LBFGS
    from leakscope.attacks.parts.search.first_order import Adam as Adam
    from leakscope.attacks.parts.search.first_order import Patience as Patience
    from leakscope.attacks.parts.search.precision import Bfloat16 as Bfloat16
    from leakscope.attacks.parts.search.together import Together as Together
    from leakscope.attacks.parts.spaces import Pixels as Pixels
    from leakscope.attacks.parts.spaces import Squashed as Squashed
    from leakscope.attacks.parts.starts import Gaussian as Gaussian
    from leakscope.attacks.parts.starts import Gray as Gray
    from leakscope.attacks.parts.starts import Uniform as Uniform
    from leakscope.attacks.portfolio.auto import Auto as Auto
    from leakscope.attacks.transcripts.exact.ctc import CtcTranscript as CtcTranscript
    from leakscope.attacks.transcripts.exact.spoken_words import SpokenWords as SpokenWords
    from leakscope.attacks.transcripts.matching.relaxed_words import RelaxedWords as RelaxedWords
    from leakscope.attacks.transcripts.matching.unheard import AttentionContexts as AttentionContexts
    from leakscope.attacks.transcripts.matching.unheard import SoftmaxInputs as SoftmaxInputs
    from leakscope.attacks.transcripts.matching.unheard import SpeechFrames as SpeechFrames
    from leakscope.bounds.accounting import epsilon as epsilon
    from leakscope.core.annotation import Annotation as Annotation
    from leakscope.core.annotation import Per as Per
    from leakscope.core.attempt import Attempt as Attempt
    from leakscope.core.attempt import Certificate as Certificate
    from leakscope.core.attempt import Outcome as Outcome
    from leakscope.core.batch import Batch as Batch
    from leakscope.core.claim import AbstractClaim as AbstractClaim
    from leakscope.core.claim import Attribute as Attribute
    from leakscope.core.claim import Features as Features
    from leakscope.core.claim import Inputs as Inputs
    from leakscope.core.claim import Labels as Labels
    from leakscope.core.claim import Scale as Scale
    from leakscope.core.claim import Tokens as Tokens
    from leakscope.core.claim import Transcripts as Transcripts
    from leakscope.core.effort import Budget as Budget
    from leakscope.core.errors import BadInput as BadInput
    from leakscope.core.errors import LeakscopeError as LeakscopeError
    from leakscope.core.errors import MissingExtra as MissingExtra
    from leakscope.core.errors import NotTold as NotTold
    from leakscope.core.facts import BatchNormStatistics as BatchNormStatistics
    from leakscope.core.facts import BatchSize as BatchSize
    from leakscope.core.facts import Gallery as Gallery
    from leakscope.core.facts import LayerStatistics as LayerStatistics
    from leakscope.core.facts import Lengths as Lengths
    from leakscope.core.facts import PublicStatistics as PublicStatistics
    from leakscope.core.facts import Suspects as Suspects
    from leakscope.core.facts import TrueLabels as TrueLabels
    from leakscope.core.facts import TrueTranscripts as TrueTranscripts
    from leakscope.core.observation import Observation as Observation
    from leakscope.core.pieces import Pieces as Pieces
    from leakscope.core.release import Delta as Delta
    from leakscope.core.release import Gradient as Gradient
    from leakscope.core.release import Weights as Weights
    from leakscope.core.secret import Secret as Secret
    from leakscope.core.target import CrossEntropy as CrossEntropy
    from leakscope.core.target import Target as Target
    from leakscope.datasets.emotion.corpus import AbstractCorpus as AbstractCorpus
    from leakscope.datasets.emotion.corpus import Combined as Combined
    from leakscope.datasets.emotion.corpus import Emotion as Emotion
    from leakscope.datasets.emotion.crema_d import CremaD as CremaD
    from leakscope.datasets.emotion.emodb import EmoDB as EmoDB
    from leakscope.datasets.emotion.emotion_features import EmotionFeatures as EmotionFeatures
    from leakscope.datasets.emotion.features import AbstractFeatures as AbstractFeatures
    from leakscope.datasets.emotion.features import FeatureFiles as FeatureFiles
    from leakscope.datasets.emotion.iemocap import Iemocap as Iemocap
    from leakscope.datasets.emotion.msp_improv import MspImprov as MspImprov
    from leakscope.datasets.emotion.normalization import Normalization as Normalization
    from leakscope.datasets.emotion.opensmile import FeatureSet as FeatureSet
    from leakscope.datasets.emotion.opensmile import OpenSmile as OpenSmile
    from leakscope.datasets.emotion.ravdess import Ravdess as Ravdess
    from leakscope.datasets.emotion.spoken_emotions import SpokenEmotions as SpokenEmotions
    from leakscope.datasets.emotion.spoken_emotions import Style as Style
    from leakscope.datasets.sources.balanced import Balanced as Balanced
    from leakscope.datasets.sources.cifar import Cifar10 as Cifar10
    from leakscope.datasets.sources.digits import Digits as Digits
    from leakscope.datasets.sources.digits import MnistSample as MnistSample
    from leakscope.datasets.sources.faces import Faces as Faces
    from leakscope.datasets.sources.folder import ImageFolder as ImageFolder
    from leakscope.datasets.sources.letters import Letters as Letters
    from leakscope.datasets.sources.mnist import Mnist as Mnist
    from leakscope.datasets.sources.photographs import Photographs as Photographs
    from leakscope.datasets.sources.speaking import Spoken as Spoken
    from leakscope.datasets.sources.speech import DeepSpeechCsv as DeepSpeechCsv
    from leakscope.datasets.sources.speech import LibriSpeech as LibriSpeech
    from leakscope.datasets.sources.synthetic import Synthetic as Synthetic
    from leakscope.datasets.sources.text import Sentences as Sentences
    from leakscope.datasets.sources.transcribed import SoundFolder as SoundFolder
    from leakscope.domains.speech import Frames as Frames
    from leakscope.domains.text import Text as Text
    from leakscope.domains.text import Words as Words
    from leakscope.domains.vectors import Vectors as Vectors
    from leakscope.domains.vision import Images as Images
    from leakscope.integrations.timm import Timm as Timm
    from leakscope.integrations.torchvision import Torchvision as Torchvision
    from leakscope.mechanisms.defenses.clip import Clip as Clip
    from leakscope.mechanisms.defenses.dropout import Dropout as Dropout
    from leakscope.mechanisms.defenses.freeze import FreezeLayers as FreezeLayers
    from leakscope.mechanisms.defenses.inputs import InputNoise as InputNoise
    from leakscope.mechanisms.defenses.noise import GaussianNoise as GaussianNoise
    from leakscope.mechanisms.defenses.noise import LaplaceNoise as LaplaceNoise
    from leakscope.mechanisms.defenses.prune import Prune as Prune
    from leakscope.mechanisms.defenses.prune import RandomDrop as RandomDrop
    from leakscope.mechanisms.defenses.quantize import Quantize as Quantize
    from leakscope.mechanisms.defenses.quantize import Sign as Sign
    from leakscope.mechanisms.federated.federation import Federation as Federation
    from leakscope.mechanisms.federated.federation import Played as Played
    from leakscope.mechanisms.federated.federation import Sampling as Sampling
    from leakscope.mechanisms.federated.round_files import RoundFiles as RoundFiles
    from leakscope.mechanisms.federated.stores import RoundsInMemory as RoundsInMemory
    from leakscope.mechanisms.federated.user_level import NoiseBy as NoiseBy
    from leakscope.mechanisms.federated.user_level import UserLevel as UserLevel
    from leakscope.mechanisms.federation import mean_update as mean_update
    from leakscope.mechanisms.observe import observe as observe
    from leakscope.mechanisms.population import Population as Population
    from leakscope.mechanisms.protocols.batch_clipped import BatchClipped as BatchClipped
    from leakscope.mechanisms.protocols.dpsgd import DPSGD as DPSGD
    from leakscope.mechanisms.protocols.fedavg import FedAvg as FedAvg
    from leakscope.mechanisms.protocols.fedsgd import FedSGD as FedSGD
    from leakscope.mechanisms.protocols.optimizers import ClientAdam as ClientAdam
    from leakscope.mechanisms.protocols.optimizers import ClientAdamW as ClientAdamW
    from leakscope.mechanisms.protocols.optimizers import ClientSGD as ClientSGD
    from leakscope.mechanisms.protocols.training import HeadTraining as HeadTraining
    from leakscope.mechanisms.protocols.training import PrivateHeadTraining as PrivateHeadTraining
    from leakscope.numerics.rng import Key as Key
    from leakscope.scoring.case import Client as Client
    from leakscope.scoring.metrics.features import FeatureError as FeatureError
    from leakscope.scoring.metrics.features import FeaturesFound as FeaturesFound
    from leakscope.scoring.metrics.guesses import LabelAccuracy as LabelAccuracy
    from leakscope.scoring.metrics.guesses import LabelSet as LabelSet
    from leakscope.scoring.metrics.pieces import PieceError as PieceError
    from leakscope.scoring.metrics.ranks import ReciprocalRank as ReciprocalRank
    from leakscope.scoring.metrics.ranks import TopFive as TopFive
    from leakscope.scoring.metrics.ranks import TopOne as TopOne
    from leakscope.scoring.metrics.speech import CharacterErrorRate as CharacterErrorRate
    from leakscope.scoring.metrics.speech import FrameError as FrameError
    from leakscope.scoring.metrics.speech import WordErrorRate as WordErrorRate
    from leakscope.scoring.metrics.tokens import ExactText as ExactText
    from leakscope.scoring.metrics.tokens import TokenError as TokenError
    from leakscope.scoring.metrics.tokens import TokenOrder as TokenOrder
    from leakscope.scoring.metrics.tokens import TokenOverlap as TokenOverlap
    from leakscope.scoring.metrics.vision import LPIPS as LPIPS
    from leakscope.scoring.metrics.vision import MSE as MSE
    from leakscope.scoring.metrics.vision import PSNR as PSNR
    from leakscope.scoring.metrics.vision import SSIM as SSIM
    from leakscope.scoring.referee import score as score
    from leakscope.scoring.score import Score as Score
    from leakscope.targets.looking.context_window import ContextWindow as ContextWindow
    from leakscope.targets.losses import NextToken as NextToken
    from leakscope.targets.losses import Reduction as Reduction
    from leakscope.targets.recipes.fitted import Fitted as Fitted
    from leakscope.targets.recipes.imported import Imported as Imported
    from leakscope.targets.recipes.linear_probe import LinearProbe as LinearProbe
    from leakscope.targets.recipes.trained import Trained as Trained
    from leakscope.targets.spelling import WordPieces as WordPieces
    from leakscope.targets.vetting.model import vet as vet
    from leakscope.targets.vetting.update import vet_update as vet_update
    from leakscope.targets.zoo.convnet import ConvNet as ConvNet
    from leakscope.targets.zoo.deepspeech import DeepSpeech as DeepSpeech
    from leakscope.targets.zoo.efficientnet import EfficientNetLite0 as EfficientNetLite0
    from leakscope.targets.zoo.emotion_net import EmotionNet as EmotionNet
    from leakscope.targets.zoo.fit import Activation as Activation
    from leakscope.targets.zoo.lenet import LeNet as LeNet
    from leakscope.targets.zoo.listen_attend_spell import ListenAttendSpell as ListenAttendSpell
    from leakscope.targets.zoo.mlp import MLP as MLP
    from leakscope.targets.zoo.mlp import Linear as Linear
    from leakscope.targets.zoo.resnet import ResNet20 as ResNet20
    from leakscope.targets.zoo.text import TextDecoder as TextDecoder
    from leakscope.targets.zoo.text import TextEncoder as TextEncoder
    from leakscope.targets.zoo.transformer import ViT as ViT
    from leakscope.targets.zoo.vgg import VGGTiny as VGGTiny


def _declared() -> dict[str, Home]:
    """Name -> home, from the imports above: type checkers follow them, at run time they are only read.

    One list, so that what an editor offers is what there is.
    """
    body = ast.parse(Path(__file__).read_text(encoding="utf-8")).body
    (block,) = (node for node in body if isinstance(node, ast.If))
    return homes(block.body)


_HOMES = _declared()

__all__ = [
    "__version__",
    *sorted(_HOMES),
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name].module), _HOMES[name].name)
    else:
        # Whatever has a row in the one table is public; a new attack or defense need not be written here as well.
        from leakscope.cli.text.index import row_named

        row = None if name.startswith("_") else row_named(name)
        if row is None:
            raise AttributeError(f"leakscope has no {name!r}; see dir(leakscope)")
        value = row.build
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
