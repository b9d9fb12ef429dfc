"""The official CIFAR archives: where they are, what is in them, how to know them again."""

from typing import NamedTuple

_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab
crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout
tulip turtle wardrobe whale willow_tree wolf woman worm"""
CLASSES = {"cifar10": _CIFAR10.split(), "cifar100": _CIFAR100.split()}


class Layout(NamedTuple):
    """How one of the official archives is laid out."""

    url: str
    sha256: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    binary: bool

    @property
    def archive(self) -> str:
        """The file name of the archive."""
        return self.url.rsplit("/", 1)[1]


SITE = "https://www.cs.toronto.edu/~kriz/"
BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
LAYOUTS = {  # Digests of the binary archives: TFDS; of the python ones: Keras.
    "cifar10": (
        Layout(
            SITE + "cifar-10-binary.tar.gz",
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            "cifar-10-batches-bin",
            tuple(f"{name}.bin" for name in BATCHES),
            ("test_batch.bin",),
            binary=True,
        ),
        Layout(
            SITE + "cifar-10-python.tar.gz",
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            "cifar-10-batches-py",
            BATCHES,
            ("test_batch",),
            binary=False,
        ),
    ),
    "cifar100": (
        Layout(
            SITE + "cifar-100-binary.tar.gz",
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            "cifar-100-binary",
            ("train.bin",),
            ("test.bin",),
            binary=True,
        ),
        Layout(
            SITE + "cifar-100-python.tar.gz",
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            "cifar-100-python",
            ("train",),
            ("test",),
            binary=False,
        ),
    ),
}
