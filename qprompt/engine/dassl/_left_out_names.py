"""The modules of Dassl 0.6.3 that this engine does not include, and their public names."""

TABLE = """
data.datasets.da.cifarstl: CIFARSTL
data.datasets.da.digit5: read_image_list load_mnist load_mnist_m load_svhn load_syn load_usps Digit5 MNIST MNIST_M
    SVHN SYN USPS
data.datasets.da.domainnet: DomainNet
data.datasets.da.mini_domainnet: miniDomainNet
data.datasets.da.office31: Office31
data.datasets.da.office_home: OfficeHome
data.datasets.da.visda17: VisDA17
data.datasets.dg.cifar_c: CIFAR10C CIFAR100C AVAI_C_TYPES
data.datasets.dg.digit_single: read_image_list load_mnist load_mnist_m load_svhn load_syn load_usps DigitSingle
    MNIST MNIST_M SVHN SYN USPS
data.datasets.dg.digits_dg: DigitsDG
data.datasets.dg.office_home_dg: OfficeHomeDG
data.datasets.dg.pacs: PACS
data.datasets.dg.vlcs: VLCS
data.datasets.dg.wilds.camelyon17: Camelyon17
data.datasets.dg.wilds.fmow: FMoW CATEGORIES
data.datasets.dg.wilds.iwildcam: IWildCam
data.datasets.dg.wilds.wilds_base: WILDSBase
data.datasets.ssl: SVHN
data.datasets.ssl.cifar: CIFAR10 CIFAR100
data.datasets.ssl.stl10: STL10
data.datasets.ssl.svhn: SVHN
engine.da.adabn: AdaBN
engine.da.adda: ADDA
engine.da.cdac: custom_scheduler AAC Prototypes CDAC
engine.da.dael: Experts DAEL
engine.da.dann: DANN
engine.da.m3sda: PairClassifiers M3SDA
engine.da.mcd: MCD
engine.da.mme: Prototypes MME
engine.da.se: SE
engine.da.source_only: SourceOnly
engine.dg.crossgrad: CrossGrad
engine.dg.daeldg: Experts DAELDG
engine.dg.ddaig: DDAIG
engine.dg.domain_mix: DomainMix
engine.dg.vanilla: Vanilla
engine.ssl.entmin: EntMin
engine.ssl.fixmatch: FixMatch
engine.ssl.mean_teacher: MeanTeacher
engine.ssl.mixmatch: MixMatch
engine.ssl.sup_baseline: SupBaseline
modeling.backbone.alexnet: AlexNet init_pretrained_weights alexnet model_urls
modeling.backbone.cnn_digit5_m3sda: FeatureExtractor cnn_digit5_m3sda
modeling.backbone.cnn_digitsdg: Convolution ConvNet cnn_digitsdg
modeling.backbone.cnn_digitsingle: CNN cnn_digitsingle
modeling.backbone.efficientnet: BlockArgs GlobalParams
modeling.backbone.efficientnet.model: MBConvBlock EfficientNet build_efficientnet efficientnet_b0 efficientnet_b1
    efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7
modeling.backbone.efficientnet.utils: SwishImplementation MemoryEfficientSwish Swish round_filters round_repeats
    drop_connect get_same_padding_conv2d get_width_and_height_from_size calculate_output_image_size
    Conv2dDynamicSamePadding Conv2dStaticSamePadding Identity efficientnet_params BlockDecoder efficientnet
    get_model_params load_pretrained_weights GlobalParams BlockArgs url_map url_map_advprop
modeling.backbone.preact_resnet18: PreActBlock PreActBottleneck PreActResNet preact_resnet18
modeling.backbone.resnet: conv3x3 BasicBlock Bottleneck ResNet init_pretrained_weights resnet18 resnet34 resnet50
    resnet101 resnet152 resnet18_ms_l123 resnet18_ms_l12 resnet18_ms_l1 resnet50_ms_l123 resnet50_ms_l12 resnet50_ms_l1
    resnet101_ms_l123 resnet101_ms_l12 resnet101_ms_l1 resnet18_efdmix_l123 resnet18_efdmix_l12 resnet18_efdmix_l1
    resnet50_efdmix_l123 resnet50_efdmix_l12 resnet50_efdmix_l1 resnet101_efdmix_l123 resnet101_efdmix_l12
    resnet101_efdmix_l1 model_urls
modeling.backbone.resnet_dynamic: conv3x3 conv3x3_dynamic conv1x1 load_state_dict BasicBlock Bottleneck
    BasicBlockDynamic BottleneckDynamic ResNet resnet18_dynamic resnet50_dynamic resnet101_dynamic
    resnet18_dynamic_ms_l123 resnet18_dynamic_ms_l12 resnet18_dynamic_ms_l1 resnet50_dynamic_ms_l123
    resnet50_dynamic_ms_l12 resnet50_dynamic_ms_l1 resnet101_dynamic_ms_l123 resnet101_dynamic_ms_l12
    resnet101_dynamic_ms_l1 model_urls
modeling.backbone.vgg: VGG make_layers vgg16 model_urls cfgs
modeling.backbone.wide_resnet: BasicBlock NetworkBlock WideResNet wide_resnet_28_2 wide_resnet_16_4
modeling.network.ddaig_fcn: init_network_weights get_norm_layer ResnetBlock LocNet FCN fcn_3x32_gctx fcn_3x64_gctx
    fcn_3x32_gctx_stn fcn_3x64_gctx_stn
modeling.ops.attention: Attention
modeling.ops.conv: Conv2dDynamic
modeling.ops.dsbn: DSBN1d DSBN2d
modeling.ops.efdmix: deactivate_efdmix activate_efdmix random_efdmix crossdomain_efdmix run_without_efdmix
    run_with_efdmix EFDMix
modeling.ops.mixstyle: deactivate_mixstyle activate_mixstyle random_mixstyle crossdomain_mixstyle
    run_without_mixstyle run_with_mixstyle MixStyle
modeling.ops.mmd: MaximumMeanDiscrepancy
modeling.ops.optimal_transport: OptimalTransport SinkhornDivergence MinibatchEnergyDistance
modeling.ops.sequential2: Sequential2
modeling.ops.transnorm: TransNorm1d TransNorm2d
"""


def _parse(table: str) -> dict[str, list[str]]:
    modules: dict[str, list[str]] = {}
    for line in table.strip().splitlines():
        module, _, names = line.rpartition(":")
        if module:
            modules[f"dassl.{module}"] = current = []
        current += names.split()
    return modules


MODULES = _parse(TABLE)
