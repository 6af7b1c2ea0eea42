"""The model, the data and the training: plain PyTorch."""

import torch
from sklearn.datasets import load_digits

NODES = 4


def model(seed):
    """A classifier of 8 x 8 pixels with 38,410 parameters."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))


def images():
    """Pixels from 0 to 1 and labels; scikit-learn brings these 1,797 digits along."""
    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.tensor(pixels, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]


def training_images(node):
    """The images of one node: a quarter of all but the last 397."""
    pixels, labels = images()
    return pixels[:1400][node::NODES], labels[:1400][node::NODES]


def train(net, pixels, labels, seed):
    """An epoch of SGD."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    for batch in order.split(32):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(pixels[batch]), labels[batch]).backward()
        optimizer.step()


def accuracy(net):
    """Share of the last 397 images that are classified correctly."""
    pixels, labels = images()
    with torch.no_grad():
        return (net(pixels[1400:]).argmax(1) == labels[1400:]).float().mean().item()
