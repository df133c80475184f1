"""Of what attacks, mechanisms, targets and data sets are composed: the rows of the one table that are parts of others.

Read off its source like `names.py`, of whose rows these are the last: a row is written in literals.
"""

from __future__ import annotations

from leakscope.attacks.attributes.decide import AbstractDecision, Discriminant, Logistic
from leakscope.attacks.attributes.encoder import AbstractSpeakerEncoder, CepstralMoments
from leakscope.attacks.attributes.rescnn import ResCNN
from leakscope.attacks.attributes.resemblyzer import Resemblyzer
from leakscope.attacks.attributes.signals import (
    AbstractSignal,
    ClassInputs,
    ColumnEnergy,
    MeanInput,
    RawUpdate,
    RowSpace,
    SharedInput,
    SignedMean,
)
from leakscope.attacks.attributes.update_network import UpdateNetwork
from leakscope.attacks.labels.rlg import LinearPrograms, Perceptrons
from leakscope.attacks.parts.distance.distances import (
    L1,
    AbstractDistance,
    Cosine,
    Layers,
    OnSupport,
    Squared,
    Weighted,
)
from leakscope.attacks.parts.distance.norms import Clipped, Euclidean, Limit, LInfinity, SquareRoot, TopGradients
from leakscope.attacks.parts.labeling.labeling import AbstractLabeling, Inferred, Joint, Told
from leakscope.attacks.parts.labeling.spelling import Edits, Guessed, Listed
from leakscope.attacks.parts.priors.images import Energy, Range, TotalVariation
from leakscope.attacks.parts.priors.prior import AbstractPrior, Flat
from leakscope.attacks.parts.priors.sequences import NormalizedVariation, Order, TimeMean, Variance, Variation
from leakscope.attacks.parts.priors.speech import SpeechPrior
from leakscope.attacks.parts.priors.statistics import BatchNorm
from leakscope.attacks.parts.search.direct import DirectSearch, Scales, Shrink, Take
from leakscope.attacks.parts.search.directions import By
from leakscope.attacks.parts.search.first_order import LBFGS, AbstractSearch, Adam, Patience
from leakscope.attacks.parts.search.precision import Bfloat16
from leakscope.attacks.parts.search.together import Together
from leakscope.attacks.parts.spaces import AbstractSpace, Pixels, SomeFrames, Squashed, Where
from leakscope.attacks.parts.starts import AbstractStart, Between, Claimed, Gaussian, Gray, Repeated, Uniform
from leakscope.attacks.transcripts.matching.unheard import (
    AbstractUnheard,
    AttentionContexts,
    SoftmaxInputs,
    SpeechFrames,
)
from leakscope.cli.rows import Family, Row, Trait, row
from leakscope.core.feed import AbstractFeed, InputsOnly, Keywords, TeacherForced, WithLengths
from leakscope.core.pool import Pool
from leakscope.core.target import AbstractLoss, CrossEntropy
from leakscope.datasets.draw import pool
from leakscope.datasets.emotion.corpus import AbstractCorpus, Combined, Emotion
from leakscope.datasets.emotion.crema_d import CremaD
from leakscope.datasets.emotion.emodb import EmoDB
from leakscope.datasets.emotion.features import AbstractFeatures, FeatureFiles
from leakscope.datasets.emotion.iemocap import Iemocap
from leakscope.datasets.emotion.msp_improv import MspImprov
from leakscope.datasets.emotion.normalization import Normalization
from leakscope.datasets.emotion.opensmile import FeatureSet, OpenSmile
from leakscope.datasets.emotion.ravdess import Ravdess
from leakscope.datasets.emotion.spoken_emotions import SpokenEmotions, Style
from leakscope.datasets.sources.letters import Letters
from leakscope.mechanisms.federated.federation import Federation, Sampling
from leakscope.mechanisms.federated.user_level import NoiseBy, UserLevel
from leakscope.mechanisms.protocols.optimizers import AbstractOptimizer, ClientAdam, ClientAdamW, ClientSGD
from leakscope.targets.looking.context_window import ContextWindow
from leakscope.targets.losses import CTC, BinaryCrossEntropy, NextToken, OneLogit, Reduction, SquaredError
from leakscope.targets.spelling import NextPiece, PiecesSoFar, Spelling, WordPieces
from leakscope.targets.zoo.fit import Activation

_X = Family.PARTS
T = Trait

PARTS: tuple[Row, ...] = (
    row(_X, Squared, "distance: squared difference"),
    row(_X, L1, "distance: absolute difference"),
    row(_X, Cosine, "distance: one minus the cosine"),
    row(_X, Layers, "distance: another one on chosen layers only", 'Layers(Squared(), ("*.weight",))'),
    row(_X, Weighted, "distance: another one, weighted by layer", "Weighted(Squared(), first=1.0, last=2.0)"),
    row(_X, OnSupport, "distance: another one where the release is not zero", "OnSupport(Squared())"),
    row(_X, Euclidean, "distance: the norm of the difference"),
    row(_X, LInfinity, "distance: the largest difference of each layer"),
    row(_X, SquareRoot, "distance: roots of differences, which bears outliers"),
    row(_X, TopGradients, "distance: another one on the largest entries of each layer",
        "TopGradients(Cosine(), ratio=0.5)"),
    row(_X, Clipped, "distance: another one after both sides were clipped", "Clipped(Euclidean(), 1.0)"),
    row(_X, Limit, "of Clipped: NORM or VALUE", 'Limit("norm")'),
    row(_X, ClientSGD, "optimizer of FedAvg: SGD, with momentum, Nesterov, dampening, weight decay",
        "ClientSGD(momentum=0.9, weight_decay=0.0005)"),
    row(_X, ClientAdam, "optimizer of FedAvg: Adam"),
    row(_X, ClientAdamW, "optimizer of FedAvg: Adam with decoupled weight decay"),
    row(_X, UserLevel, "privacy of Federation: the whole update of a client is clipped, and noise added",
        "UserLevel(clip=1.0, noise_multiplier=1.0)"),
    row(_X, NoiseBy, "of UserLevel: CLIENTS or SERVER add the noise", 'NoiseBy("clients")'),
    row(_X, TotalVariation, "prior: neighboring pixels are alike"),
    row(_X, Range, "prior: values lie in the domain's range"),
    row(_X, Energy, "prior: values are small"),
    row(_X, Variation, "prior: neighboring frames are alike"),
    row(_X, NormalizedVariation, "prior: neighboring frames are alike, whatever the size of values"),
    row(_X, Variance, "prior: coefficients vary little over time"),
    row(_X, TimeMean, "prior: coefficients have a small mean over time"),
    row(_X, Order, "of TimeMean: TWO or MAX", 'Order("two")'),
    row(_X, BatchNorm, "prior: normalization layers see what they see on real data"),
    row(_X, SpeechPrior, "prior: frames are distributed and follow each other as in public speech"),
    row(_X, Flat, "prior: none"),
    row(_X, Pixels, "space: the inputs themselves"),
    row(_X, Squashed, "space: a squashing function keeps the inputs in range"),
    row(_X, SomeFrames, "space: only some frames of each utterance", "SomeFrames(10)"),
    row(_X, Where, "of SomeFrames: START, END, RANDOM or SPREAD", 'Where("start")'),
    row(_X, Gaussian, "start: normal noise"),
    row(_X, Uniform, "start: uniform noise in range"),
    row(_X, Gray, "start: the middle of the range"),
    row(_X, Between, "start: uniform noise in a range of your choice"),
    row(_X, Repeated, "start: one frame, repeated"),
    row(_X, Claimed, "start: what another attack claims", "Claimed(WindowedFrames(), noise=0.1)"),
    row(_X, LBFGS, "search: L-BFGS with strong Wolfe line search"),
    row(_X, Adam, "search: Adam, signed on request"),
    row(_X, DirectSearch, "search: random steps that lower the loss, without second derivatives",
        "DirectSearch(iterations=500)"),
    row(_X, By, "of DirectSearch: FRAME, COEFFICIENT, ENTRY or ALL", 'By("frame")'),
    row(_X, Take, "of DirectSearch: ALL, BEST or LINE", 'Take("all")'),
    row(_X, Shrink, "search: when the radius of a direct search falls", "Shrink(steps=500)"),
    row(_X, Scales, "search: radii by coefficient for a direct search"),
    row(_X, Together, "search: restarts of another one pull each other together", "Together(Adam(steps=500))"),
    row(_X, Bfloat16, "search: another one whose products are rounded to bfloat16", "Bfloat16(Adam(steps=500))"),
    row(_X, Patience, "search: when to stop on a plateau", "Patience(steps=100)"),
    row(_X, Joint, "labels: soft labels are searched along"),
    row(_X, Inferred, "labels: another attack infers them first", "Inferred(LabelSigns())"),
    row(_X, Told, "labels: those that were told"),
    row(_X, CepstralMoments, "voices: mean and spread of each coefficient; needs no training"),
    row(_X, Resemblyzer, "voices: the published LSTM encoder, through sound", "", T.NEEDS_EXTRA),
    row(_X, ResCNN, "voices: Deep Speaker's network, trained by `leakscope train speaker`",
        'ResCNN("speakers.safetensors")', T.NEEDS_FILES),
    row(_X, ClassInputs, "signal of an update: what a layer was fed, summed class by class"),
    row(_X, MeanInput, "signal of an update: a mean of a layer's inputs, by its biases"),
    row(_X, SignedMean, "signal of an update: the same with each unit counted alike, for clients that use Adam"),
    row(_X, ColumnEnergy, "signal of an update: the energy that each input of a layer has in it"),
    row(_X, SharedInput, "signal of an update: what all inputs of a layer have in common, by its row space"),
    row(_X, RowSpace, "signal of an update: which inputs of a layer take part in its leading directions"),
    row(_X, RawUpdate, "signal of an update: a layer's update, entry by entry"),
    row(_X, Logistic, "decision: logistic regression on a signal"),
    row(_X, Discriminant, "decision: linear discriminant analysis with a shrunk covariance"),
    row(_X, UpdateNetwork, "decision: the published network on a layer's whole update"),
    row(_X, Perceptrons, "of RLG: a round in which a perceptron has to tell a class from others",
        "Perceptrons(columns=1000, share=1.0)"),
    row(_X, LinearPrograms, "of RLG: a round in which a linear program has to tell a class from others",
        "LinearPrograms(columns=5000, epsilon=1e-8)"),
    row(_X, AttentionContexts, "of RelaxedWords: what stands for the speech is what was attended to, step by step"),
    row(_X, SoftmaxInputs, "of RelaxedWords: what stands for the speech is what the output layer is fed; a bag"),
    row(_X, SpeechFrames, "of RelaxedWords: the frames themselves are searched, through the whole model"),
    row(_X, Guessed, "labels: a random transcript"),
    row(_X, Listed, "labels: the best transcript of a list, tried again and again", 'Listed(("yes", "no"))'),
    row(_X, Edits, "labels: the transcript is searched along, a character at a time or by a beam"),
    row(_X, Activation, "of a target: RELU, SIGMOID, TANH, ...", 'Activation("relu")'),
    row(_X, Reduction, "of a CTC loss: SUM or MEAN over the labels", 'Reduction("sum")'),
    row(_X, CrossEntropy, "loss: of classes or probabilities"),
    row(_X, BinaryCrossEntropy, "loss: of several labels at once"),
    row(_X, OneLogit, "loss: of two classes by one logit, whose positive examples may count more"),
    row(_X, SquaredError, "loss: of real numbers"),
    row(_X, CTC, "loss: of transcripts, one output per frame", "CTC(blank=28)"),
    row(_X, NextToken, "loss: of the next token, at every token"),
    row(_X, NextPiece, "loss: of the next letter or word piece of a transcript", "NextPiece(Spelling(28))"),
    row(_X, InputsOnly, "feed: the model takes the inputs alone"),
    row(_X, WithLengths, "feed: the model takes sequences and their lengths"),
    row(_X, TeacherForced, "feed: a decoder also takes what was said so far", "TeacherForced(start=1)"),
    row(_X, PiecesSoFar, "feed: the same with lengths, and with the word pieces of the transcript",
        "PiecesSoFar(Spelling(28))"),
    row(_X, Spelling, "of a decoder: its letters and word pieces", "Spelling(28)"),
    row(_X, WordPieces, "of a decoder: word pieces learned from public transcripts",
        "WordPieces(Spoken(speakers=3, each=8, shortest=1.0, longest=2.0), 100)", T.NEEDS_EXTRA),
    row(_X, Keywords, "feed: the model takes its inputs by name", 'Keywords(mask="attention_mask", pick="logits")'),
    row(_X, Ravdess, "emotional speech: RAVDESS as published", 'Ravdess("data/ravdess")', T.NEEDS_FILES),
    row(_X, EmoDB, "emotional speech: the Berlin database as published", 'EmoDB("data/emodb")', T.NEEDS_FILES),
    row(_X, CremaD, "emotional speech: CREMA-D as published", 'CremaD("data/crema-d")', T.NEEDS_FILES),
    row(_X, Iemocap, "emotional speech: IEMOCAP as published", 'Iemocap("data/IEMOCAP")', T.NEEDS_FILES),
    row(_X, MspImprov, "emotional speech: MSP-Improv as published", 'MspImprov("data/MSP-IMPROV")', T.NEEDS_FILES),
    row(_X, SpokenEmotions, "emotional speech: synthetic voices (eSpeak NG) in three corpora", "", T.NEEDS_EXTRA),
    row(_X, Combined, "emotional speech: several corpora as one",
        'Combined((Ravdess("data/ravdess"), EmoDB("data/emodb")))', T.NEEDS_FILES),
    row(_X, Style, "of SpokenEmotions: STUDIO, TELEPHONE or ROOM", 'Style("studio")'),
    row(_X, Emotion, "of EmotionFeatures: NEUTRAL, HAPPY, SAD, ANGRY, ...", 'Emotion("happy")'),
    row(_X, Normalization, "of EmotionFeatures: SPEAKER, CORPUS or RANGE", 'Normalization("speaker")'),
    row(_X, OpenSmile, "features of speech: statistics by openSMILE", 'OpenSmile(cache="features")', T.NEEDS_EXTRA),
    row(_X, FeatureSet, "of OpenSmile: EMOBASE, EGEMAPS or COMPARE", 'FeatureSet("emobase")'),
    row(_X, FeatureFiles, "features of speech: a .npy file for each recording",
        'FeatureFiles("data/apc", 512)', T.NEEDS_FILES),
    row(_X, pool, "the public part of a data set, for attacks that learn from it", "pool(Digits())"),
    row(_X, Letters, "26 letters in the fonts of matplotlib, all public: data that a backbone is trained on"),
    row(_X, Federation, "who trains a model together, for how many rounds and how", "Federation(FedSGD(), rounds=60)"),
    row(_X, Sampling, "of Federation: FIXED or POISSON", 'Sampling("fixed")'),
    row(_X, ContextWindow, "which dense layer is fed windows of frames",
        'ContextWindow("layer_1.weight", "layer_1.bias", features=26, left=9, right=9)'),
)  # fmt: skip

PART_KINDS: tuple[type, ...] = (
    AbstractDistance,
    AbstractPrior,
    AbstractSpace,
    AbstractStart,
    AbstractSearch,
    AbstractLabeling,
    AbstractOptimizer,
    UserLevel,
    NoiseBy,
    Shrink,
    Scales,
    Limit,
    Order,
    Where,
    By,
    Take,
    AbstractSpeakerEncoder,
    Patience,
    Perceptrons,
    AbstractUnheard,
    LinearPrograms,
    Activation,
    Reduction,
    AbstractLoss,
    AbstractFeed,
    Spelling,
    WordPieces,
    ContextWindow,
    Pool,
    Letters,
    AbstractCorpus,
    AbstractFeatures,
    Style,
    Emotion,
    Normalization,
    FeatureSet,
    AbstractSignal,
    AbstractDecision,
    Federation,
    Sampling,
)
"""What an object that is a part is an instance of."""
