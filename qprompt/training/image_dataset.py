"""The data set that a loader reads images from: Dassl's, with our image reader and a decode cache."""

from dassl.data.data_manager import DatasetWrapper

from qprompt.data import decode_cache
from qprompt.data.images import limits, pixels_of, read_image, set_limits


def read_and_transform(self, idx):
    """Item `idx` of a `DatasetWrapper` as Dassl 0.6.3 makes it, but read by the method `read_image`.

    Dassl's own ``__getitem__`` reads with a function of its module, which retries forever on a damaged file.
    """
    item = self.data_source[idx]
    image = self.read_image(item.impath)
    output = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": idx}
    transforms = self.transform if isinstance(self.transform, (list, tuple)) else [self.transform]
    for number, transform in enumerate(transforms, start=1):
        key = "img" if number == 1 else f"img{number}"
        output[key] = image if transform is None else self._transform_image(transform, image)
    if self.return_img0:
        output["img0"] = self.to_tensor(image)
    return output


class ImageDataset(DatasetWrapper):
    """Dassl's `DatasetWrapper`, but a damaged image raises `ImageError` and training images are decoded once.

    Pixels are those that a viewer shows, or upstream's for the data sets of the benchmark (`pixels_of`).

    Pass the class to Dassl: ``DataManager(cfg, dataset_wrapper=ImageDataset)``. Each training set has its own
    `decode_cache` of DATALOADER.DECODE_CACHE_MB megabytes; forked workers share it.
    """

    if not hasattr(DatasetWrapper, "read_image"):  # Dassl; the bundled engine calls the method itself
        __getitem__ = read_and_transform

    def __init__(self, cfg, data_source, transform=None, is_train=False):
        super().__init__(cfg, data_source, transform=transform, is_train=is_train)
        self.pixels = pixels_of(cfg.DATASET.NAME)
        megabytes = cfg.DATALOADER.get("DECODE_CACHE_MB", -1) if is_train else 0
        self.decode_cache = decode_cache.for_files([item.impath for item in data_source], megabytes, self.pixels)

    def __getstate__(self):
        # For a worker that is not forked, as on Windows and macOS: the cache's memory cannot be sent to it.
        return {**self.__dict__, "decode_cache": None, "limits": limits()}

    def __setstate__(self, state):
        set_limits(state.pop("limits"))
        self.__dict__.update(state)

    def read_image(self, path):
        """Return the image file as an RGB PIL image.

        Raises:
            ImageError: The file is missing, damaged or too large.
        """
        return self.decode_cache.read(path) if self.decode_cache else read_image(path, self.pixels)
