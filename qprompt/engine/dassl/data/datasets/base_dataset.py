"""``Datum``, a labelled image, and ``DatasetBase``, the splits of a data set."""

import os
import random
import tarfile
import zipfile
from collections import defaultdict

from qprompt.errors import UserError

from ...utils import check_isfile, download_url, mkdir_if_missing  # noqa: F401 (Dassl has the first name here)
from ...utils.tools import BadFile


class Datum:
    """A labelled image.

    The attributes have the private names of Dassl's, because cached few-shot splits are pickles of them.

    Args:
        impath: path of an existing image file.
        label: class label, from 0.
        domain: domain label.
        classname: class name.

    Raises:
        UserError: the file does not exist.
    """

    def __init__(self, impath="", label=0, domain=0, classname=""):
        if not isinstance(impath, str):
            raise TypeError(f"impath must be a string, got {type(impath).__name__}")
        if not os.path.isfile(impath):
            raise BadFile(f'No file found at "{impath}" (an image of class "{classname}")')
        self._impath = impath
        self._label = label
        self._domain = domain
        self._classname = classname

    @property
    def impath(self):
        return self._impath

    @property
    def label(self):
        return self._label

    @property
    def domain(self):
        return self._domain

    @property
    def classname(self):
        return self._classname


class DatasetBase:
    """The splits of a data set. A subclass reads its files, then calls this constructor.

    Args:
        train_x: labelled training items, a list of `Datum`; they define the classes.
        train_u: unlabelled training items, or None.
        val: validation items, or None.
        test: test items.

    Raises:
        UserError: there are no training items, or their labels are not 0 to C - 1.
    """

    dataset_dir = ""  # folder of the data set in cfg.DATASET.ROOT
    domains: list[str] = []  # names of all domains

    def __init__(self, train_x=None, train_u=None, val=None, test=None):
        if not train_x:
            raise UserError(f"{type(self).__name__} has no training images")
        self._train_x = train_x
        self._train_u = train_u
        self._val = val
        self._test = test
        self._num_classes = self.get_num_classes(train_x)
        self._lab2cname, self._classnames = self.get_lab2cname(train_x)
        if len(self._classnames) != self._num_classes:
            missing = next(i for i in range(self._num_classes) if i not in self._lab2cname)
            raise UserError(
                f"the training labels of {type(self).__name__} must be 0 to {self._num_classes - 1}, "
                f"but there is no image of label {missing}{' (labels start at 0)' if missing == 0 else ''}"
            )

    @property
    def train_x(self):
        return self._train_x

    @property
    def train_u(self):
        return self._train_u

    @property
    def val(self):
        return self._val

    @property
    def test(self):
        return self._test

    @property
    def lab2cname(self):
        return self._lab2cname

    @property
    def classnames(self):
        return self._classnames

    @property
    def num_classes(self):
        return self._num_classes

    @staticmethod
    def get_num_classes(data_source):
        """Return the highest label plus one."""
        return max(item.label for item in data_source) + 1

    @staticmethod
    def get_lab2cname(data_source):
        """Return ``{label: class name}`` and the list of class names in the order of labels."""
        mapping = {item.label: item.classname for item in data_source}
        return mapping, [mapping[label] for label in sorted(mapping)]

    def check_input_domains(self, source_domains, target_domains):
        """Raise unless both are non-empty lists of names in ``self.domains``."""
        for kind, domains in (("source", source_domains), ("target", target_domains)):
            assert len(domains) > 0, f"{kind}_domains (list) is empty"
            self.is_input_domain_valid(domains)

    def is_input_domain_valid(self, input_domains):
        """Raise ValueError for a name that is not in ``self.domains``."""
        for domain in input_domains:
            if domain not in self.domains:
                raise ValueError(f"Input domain must belong to {self.domains}, but got [{domain}]")

    def download_data(self, url, dst, from_gdrive=True):
        """Download an archive and extract it into its folder.

        Args:
            url: address of the archive.
            dst: path of the downloaded archive: .zip, .tar or .tar.gz.
            from_gdrive: download from Google Drive, with gdown.
        """
        folder = os.path.dirname(dst)
        mkdir_if_missing(folder)
        if from_gdrive:
            try:
                import gdown
            except ImportError:
                raise UserError(f"{url} needs gdown: pip install gdown, or download it to {dst} by hand") from None
            gdown.download(url, dst, quiet=False)
        else:
            download_url(url, dst)

        print("Extracting file ...")
        if dst.endswith(".zip"):
            with zipfile.ZipFile(dst) as archive:
                archive.extractall(folder)
        elif dst.endswith((".tar", ".tar.gz")):
            with tarfile.open(dst) as archive:
                archive.extractall(folder, filter="data")  # "data": no member leaves the folder
        else:
            raise UserError(f"cannot extract {dst}: expected .zip, .tar or .tar.gz")
        print(f"File extracted to {folder}")

    def generate_fewshot_dataset(self, *data_sources, num_shots=-1, repeat=False):
        """Return `num_shots` random items per class.

        Classes are in the order of first appearance, and Python's `random` draws: a seed gives the items that it gives
        in Dassl.

        Args:
            data_sources: lists of `Datum`.
            num_shots: items per class; all items if below 1.
            repeat: repeat items of a class that has fewer. Otherwise such a class contributes all its items.

        Returns:
            A list of `Datum`, or one such list per data source.
        """
        if num_shots < 1:
            return data_sources[0] if len(data_sources) == 1 else data_sources
        print(f"Creating a {num_shots}-shot dataset")
        output = []
        for data_source in data_sources:
            chosen = []
            for items in self.split_dataset_by_label(data_source).values():
                if len(items) >= num_shots:
                    chosen.extend(random.sample(items, num_shots))
                else:
                    chosen.extend(random.choices(items, k=num_shots) if repeat else items)
            output.append(chosen)
        return output[0] if len(output) == 1 else output

    def split_dataset_by_label(self, data_source):
        """Return ``{label: [item, ...]}`` in the order of first appearance."""
        output = defaultdict(list)
        for item in data_source:
            output[item.label].append(item)
        return output

    def split_dataset_by_domain(self, data_source):
        """Return ``{domain: [item, ...]}`` in the order of first appearance."""
        output = defaultdict(list)
        for item in data_source:
            output[item.domain].append(item)
        return output
