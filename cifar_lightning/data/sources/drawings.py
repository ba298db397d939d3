"""Drawings of the ten CIFAR-10 classes, so that everything can be tried without a download.

Every image is a small scene: a background, some clutter, one subject built from flat shapes, and sometimes something
in front of it. A shape is a signed distance function (negative inside, positive outside, near the edge about as
large as the distance to it), which can be drawn sharp and antialiased at any size. The formulas are those of Inigo
Quilez, https://iquilezles.org/articles/distfunctions2d/.
"""

from __future__ import annotations

from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor

_Number = float | Tensor  # one value for all images, or one for each: (n, 1, 1)

# These make the task so hard that models/cnn.py needs ten epochs on 10,000 images to get from 40 % to above 90 %.
_SIZES, _SHIFT, _OCCLUDED, _NOISE = (0.52, 0.92), 0.28, 0.5, 0.07
_CHUNK = 2**17  # pixels drawn at once; so few fit into a processor's cache


def _palette(codes: str) -> Tensor:
    """Turn K hexadecimal colours into (K, 3) in [0, 1]."""
    return torch.tensor([list(bytes.fromhex(code)) for code in codes.split()]) / 255


_BLACK, _WHITE, _STEEL = _palette("1c1c20"), _palette("f2f2ee"), _palette("b8bcc0 8a8d92")
_GLASS = _palette("bfdcea 8fb2c8 4a6276")
_LAMP, _PINK, _WOOD = _palette("f0c850 e8863a"), _palette("d98a8a"), _palette("6b4a2e 54402c")
_PAINT = _palette("c03a2c 2d6fb5 e6e6e2 e3b233 3b8f5a 4a4e58 9aa2ab d9772b")  # vehicles
_FUR = _palette("8a5a33 c98a4b 77746f 4a4440 d9c7a8 a8703c ece6da")  # cats, dogs
_HIDE = _palette("8a5a33 a8703c 6b4630 b58a5a 94673f")  # deer, horses
_PLUMAGE = _palette("c03a2c 2d6fb5 8a5a33 77746f e3b233 4a4440 e6e6e2")
_SKIN = _palette("4c9a3a 6fae3c 2f7d4a 8a9a3a")
_IRIS = _palette("d9b83a 8fb04a 6fa8c8")

# Each kind of background: four colours above the horizon, four below, the height of the horizon, how soft it is.
_PLACES: dict[str, tuple[str, str, float, float]] = {
    "sky": ("6fa8dc a9c4dc d9b79a 8796a8", "cfe2f0 dfe6ea f0d9b8 b4bfc8", 0.0, 2.0),
    "sea": ("a9cdea d5dde2 efc9a0 8fa8b8", "2f6f9a 3f8f9a 4a6478 5f8aa8", -0.1, 0.05),
    "meadow": ("9cc7e8 cfdbe2 6f9a5a e8d9b8", "6aa84a 8fae4c 4f8a3f b09a58", 0.1, 0.1),
    "road": ("a9cbe4 b9b2a8 7f9a6a c8ccd0", "77777c 5f6064 8f8a82 6a7078", -0.1, 0.05),
    "forest": ("3f6a3a 54703c 2f4f34 6f8a5a", "6a5a3a 5f7a3c 7a6a48 4f6a34", -0.3, 0.4),
    "room": ("d8cdb8 a9b8b4 c4a9a0 8f9aa8", "9a6a40 7f5a3c b08a5c 8a7a68", -0.4, 0.05),
    "plain": ("d0d0cc 8fa8b8 b8a88c 6f7478", "b8b8b4 7f98a8 a8987c 5f6468", 0.0, 2.0),
}
_UPPER = torch.stack([_palette(place[0]) for place in _PLACES.values()])
_LOWER = torch.stack([_palette(place[1]) for place in _PLACES.values()])
_HORIZON = torch.tensor([place[2:] for place in _PLACES.values()])


class _Canvas:
    """A stack of n images with the same subject, and the coordinates of their pixels relative to the subject.

    Coordinates are (n, H, W), x to the right and y up; an image spans [-1, 1], and so, roughly, does a subject.
    """

    def __init__(self, count: int, size: int, generator: torch.Generator) -> None:
        self.count, self.size, self.generator = count, size, generator
        axis = (torch.arange(size) * 2 + 1) / size - 1
        self.x, self.y = axis.expand(count, size, size), -axis[:, None].expand(count, size, size)
        self.pixel: _Number = 2 / size  # how wide a pixel is
        self.rgb = torch.empty(count, 3, size, size)

    def uniform(self, low: float, high: float) -> Tensor:
        """Draw one number for each image, (n, 1, 1)."""
        return torch.empty(self.count, 1, 1).uniform_(low, high, generator=self.generator)

    def unless(self, chance: float) -> Tensor:
        """Draw 0 with probability ``chance``, else a distance that hides the shape it is added to, (n, 1, 1)."""
        return (self.uniform(0, 1) >= chance) * 9.0

    def colour(self, palette: Tensor) -> Tensor:
        """Draw for each image a colour near one of a palette's, (K, 3) or each image's own (n, K, 3); (n, 3, 1, 1)."""
        own, image = palette.expand(self.count, -1, 3), torch.arange(self.count)
        pick = torch.randint(own.shape[1], (self.count,), generator=self.generator)
        near = own[image, pick] + 0.03 * torch.randn(self.count, 3, generator=self.generator)
        return near.clamp(0, 1)[:, :, None, None]

    def posed(self, turn: float) -> _Canvas:
        """Return coordinates of subjects at a random position, size, stretch, slant, side and angle."""
        subject, scale, angle = copy(self), self.uniform(*_SIZES), self.uniform(-turn, turn)
        x, y = self.x - self.uniform(-_SHIFT, _SHIFT), self.y - self.uniform(-_SHIFT, _SHIFT)
        side = (self.uniform(0, 1) < 0.5) * 2 - 1
        subject.y = (angle.cos() * y - angle.sin() * x) / scale
        subject.x = (angle.cos() * x + angle.sin() * y) * side / (scale * self.uniform(0.88, 1.12))
        subject.x += self.uniform(-0.15, 0.15) * subject.y
        subject.pixel = self.pixel / scale
        return subject

    def folded(self, x: _Number = 0) -> _Canvas:
        """Return coordinates in which shapes drawn to the right of x also appear to the left of it."""
        twin = copy(self)
        twin.x = (self.x - x).abs()
        return twin

    def repeated(self, step: float, times: int) -> _Canvas:
        """Return coordinates in which shapes drawn near x = 0 appear ``times`` times, each ``step`` further."""
        row = copy(self)
        row.x = self.x - step * (self.x / step).round().clamp(0, times - 1)
        return row

    def paint(self, colour: Tensor, *shapes: Tensor) -> None:
        """Paint the union of shapes, each given by its distances (n, H, W), in a colour (n, 3, 1, 1)."""
        distance = shapes[0]
        for shape in shapes[1:]:
            distance = torch.minimum(distance, shape)
        self.rgb.lerp_(colour, (0.5 - distance / self.pixel).clamp_(0, 1)[:, None])

    def ellipse(self, x: _Number, y: _Number, rx: _Number, ry: _Number) -> Tensor:
        """Ellipse with a centre and two radii; only near its edge are the values close to the distance."""
        x, y = (self.x - x) / rx, (self.y - y) / ry
        unit = torch.hypot(x, y)
        return (unit - 1) * unit / torch.hypot(x / rx, y / ry).add_(1e-6)

    def circle(self, x: _Number, y: _Number, radius: _Number) -> Tensor:
        """Circle with a centre and a radius."""
        return torch.hypot(self.x - x, self.y - y) - radius

    def box(self, x: _Number, y: _Number, rx: _Number, ry: _Number, corner: float = 0.04) -> Tensor:
        """Rounded box with a centre and half sides."""
        dx, dy = (self.x - x).abs() - (rx - corner), (self.y - y).abs() - (ry - corner)
        return torch.hypot(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0) - corner

    def line(
        self, x0: _Number, y0: _Number, x1: _Number, y1: _Number, r0: _Number, r1: _Number | None = None
    ) -> Tensor:
        """Stroke with round ends between two points, of half width r0, or from r0 to r1."""
        x, y, dx, dy = self.x - x0, self.y - y0, x1 - x0, y1 - y0
        along = ((x * dx + y * dy) / (dx * dx + dy * dy)).clamp_(0, 1)
        return torch.hypot(x - along * dx, y - along * dy) - (r0 if r1 is None else r0 + along * (r1 - r0))

    def polygon(self, *corners: tuple[_Number, _Number]) -> Tensor:
        """Convex polygon with its corners counterclockwise, as the intersection of half planes."""
        edges = []
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            dx, dy = x1 - x0, y1 - y0
            length = (dx * dx + dy * dy) ** 0.5
            edges.append((self.x - x0) * (dy / length) - (self.y - y0) * (dx / length))
        return torch.stack(edges).amax(0)

    def eye(self, radius: float, x: float, y: float) -> None:
        """Paint an eye with a pupil of this radius."""
        self.paint(self.colour(_WHITE), self.circle(x, y, radius * 1.5))
        self.paint(self.colour(_BLACK), self.circle(x, y, radius))

    def wheels(self, y: float, radius: Tensor, *places: float) -> None:
        """Paint a wheel at each x in ``places``."""
        self.paint(self.colour(_BLACK), *(self.circle(x, y, radius) for x in places))
        self.paint(self.colour(_STEEL), *(self.circle(x, y, radius * 0.5) for x in places))


# The subjects, facing right.


def _airplane(c: _Canvas) -> None:
    body, trim = c.colour(_PAINT), c.colour(_PAINT)
    span, fin = c.uniform(0.4, 0.65), c.uniform(0.4, 0.55)
    c.paint(trim * 0.7, c.polygon((0.15, 0.08), (-0.3, span), (-0.48, span), (-0.2, 0.08)))
    c.paint(trim, c.polygon((-0.42, 0.05), (-0.72, fin), (-0.92, fin), (-0.85, 0.05)))
    c.paint(body, c.line(-0.8, 0.05, 0.5, 0, 0.07, 0.17), c.line(0.5, 0, 0.8, -0.05, 0.17, 0.08))
    c.paint(c.colour(_GLASS), c.polygon((0.58, 0.03), (0.86, 0.01), (0.74, 0.11), (0.58, 0.14)))
    c.paint(
        c.colour(_BLACK),
        c.repeated(0.12, 5).circle(0, 0.05, 0.03),
        c.repeated(-0.12, 4).circle(0, 0.05, 0.03),
    )
    c.paint(trim * 0.6, c.line(-0.1, -0.3, 0.1, -0.3, 0.08) + c.unless(0.6))
    c.paint(trim * 0.85, c.polygon((-0.5, -span), (-0.32, -span), (0.22, -0.06), (-0.15, -0.06)))


def _automobile(c: _Canvas) -> None:
    paint, glass, roof, rear = (
        c.colour(_PAINT),
        c.colour(_GLASS),
        c.uniform(0.3, 0.45),
        c.uniform(-0.75, -0.45),
    )
    c.paint(paint * 0.9, c.polygon((-0.85, 0), (0.62, 0), (0.28, roof), (rear + 0.15, roof), (rear - 0.1, 0)))
    c.paint(paint, c.box(0, -0.17, 0.92, 0.2, 0.1))
    c.paint(glass, c.polygon((rear + 0.05, 0.03), (-0.1, 0.03), (-0.1, roof - 0.07), (rear + 0.2, roof - 0.07)))
    c.paint(glass, c.polygon((-0.02, 0.03), (0.48, 0.03), (0.25, roof - 0.07), (-0.02, roof - 0.07)))
    c.paint(c.colour(_LAMP), c.circle(0.86, -0.12, 0.06))
    c.paint(paint * 0.6, c.line(-0.06, 0, -0.06, -0.3, 0.015), c.line(0.05, -0.08, 0.16, -0.08, 0.02))
    c.wheels(-0.36, c.uniform(0.18, 0.23), -0.52, 0.54)


def _bird(c: _Canvas) -> None:
    coat, wing, flies = c.colour(_PLUMAGE), c.colour(_PLUMAGE) * 0.8, c.uniform(0, 1) < 0.5
    perch, tip = flies * 9.0, flies * c.uniform(0.8, 1.1) - 0.05
    c.paint(c.colour(_WOOD), c.line(-1.2, -0.72, 1.2, c.uniform(-0.8, -0.64), 0.06) + perch + c.unless(0.6))
    c.paint(c.colour(_LAMP) * 0.8, *(c.line(x, -0.3, x + 0.08, -0.68, 0.03) + perch for x in (-0.08, 0.12)))
    c.paint(wing, c.polygon((-0.4, -0.15), (-0.4, 0.05), (-0.95, 0.15), (-1, -0.1)))
    c.paint(c.colour(_LAMP), c.polygon((0.6, 0.2), (0.95, 0.3), (0.6, 0.42)))
    c.paint(coat, c.ellipse(0, -0.1, 0.52, 0.34), c.circle(0.45, 0.3, 0.25))
    c.paint(c.colour(_WHITE), c.ellipse(0.15, -0.22, 0.28, 0.2) + c.unless(0.5))
    c.paint(wing, c.polygon((0.25, 0), (-0.35, tip), (-0.62, tip - 0.1), (-0.3, -0.12)))
    c.eye(0.055, 0.53, 0.36)


def _cat(c: _Canvas) -> None:
    coat, turn = c.colour(_FUR), c.uniform(-0.08, 0.08)
    pair, face = c.folded(), c.folded(turn)
    tip = c.uniform(-0.2, 0.1)
    c.paint(coat * 0.85, c.line(0.3, -0.85, 0.75, -0.6, 0.09), c.line(0.75, -0.6, 0.7, tip, 0.09, 0.06))
    c.paint(coat * 0.9, c.ellipse(0, -0.6, 0.42, 0.45))
    c.paint(coat * 0.75, pair.line(0.14, -0.6, 0.14, -0.95, 0.08))
    c.paint(coat, c.ellipse(0, 0.2, 0.5, 0.4), pair.polygon((0.05, 0.5), (0.49, 0.2), (0.46, 0.85)))
    c.paint(c.colour(_PINK), pair.polygon((0.22, 0.53), (0.4, 0.45), (0.4, 0.7)))
    c.paint(c.colour(_IRIS), face.ellipse(0.2, 0.27, 0.12, 0.11))
    c.paint(c.colour(_BLACK), face.ellipse(0.2, 0.27, 0.04, 0.1), face.line(0, -0.04, 0.12, -0.01, 0.02))
    c.paint(c.colour(_PINK), c.polygon((turn, 0.02), (turn + 0.08, 0.12), (turn - 0.08, 0.12)))
    c.paint(c.colour(_WHITE), *(face.line(0.16, 0.05, 0.65, y, 0.014) for y in (-0.05, 0.1)))


def _deer(c: _Canvas) -> None:
    coat, horn, branch = c.colour(_HIDE), c.colour(_WOOD), c.folded(0.48)
    _legs(c, coat, 0.035)
    c.paint(coat * 0.8, c.line(0.42, 0.42, 0.28, 0.48, 0.06))
    c.paint(horn, branch.line(0.03, 0.45, 0.2, 0.75, 0.03), branch.line(0.2, 0.75, 0.12, 1, 0.03))
    c.paint(horn, branch.line(0.14, 0.64, 0.38, 0.85, 0.03))
    c.paint(coat, c.ellipse(-0.05, -0.1, 0.52, 0.22), c.line(0.3, 0, 0.5, 0.38, 0.15, 0.09))
    c.paint(coat, c.line(0.5, 0.4, 0.78, 0.3, 0.12, 0.06))
    c.paint(c.colour(_WHITE), c.ellipse(-0.56, -0.02, 0.08, 0.1), c.repeated(-0.16, 3).circle(0, 0, 0.035))
    c.paint(c.colour(_BLACK), c.circle(0.83, 0.3, 0.04), c.circle(0.57, 0.44, 0.035))


def _dog(c: _Canvas) -> None:
    coat, turn = c.colour(_FUR), c.uniform(-0.08, 0.08)
    pair, face, ear = c.folded(), c.folded(turn), coat * c.uniform(0.5, 0.8)[:, None]
    c.paint(coat * 0.85, c.line(0.35, -0.8, 0.8, c.uniform(-0.6, -0.2), 0.08, 0.05))
    c.paint(coat * 0.9, c.ellipse(0, -0.6, 0.42, 0.45))
    c.paint(coat * 0.75, pair.line(0.15, -0.6, 0.15, -0.95, 0.09))
    c.paint(coat, c.ellipse(0, 0.28, 0.42, 0.45))
    c.paint(ear, pair.line(0.36, 0.58, 0.52, 0.0, 0.1, 0.17))
    c.paint((coat + 0.2).clamp(0, 1), c.ellipse(turn, 0.05, 0.25, 0.22))
    c.paint(c.colour(_PINK), c.line(turn, -0.12, turn, -0.22, 0.08) + c.unless(0.5))
    c.paint(c.colour(_BLACK), c.ellipse(turn, 0.16, 0.13, 0.09), c.line(turn, 0.1, turn, -0.06, 0.02))
    face.eye(0.06, 0.17, 0.42)


def _frog(c: _Canvas) -> None:
    skin, pair = c.colour(_SKIN), c.folded()
    c.paint(skin * 0.75, pair.ellipse(0.6, -0.45, 0.32, 0.3), pair.line(0.5, -0.75, 0.95, -0.78, 0.07))
    c.paint(skin, c.ellipse(0, -0.35, 0.6, 0.45), c.ellipse(0, 0.1, 0.64, 0.36), pair.circle(0.36, 0.42, 0.2))
    c.paint((skin + 0.25).clamp(0, 1), c.ellipse(0, -0.42, 0.4, 0.3))
    c.paint(skin * 0.85, pair.line(0.3, -0.3, 0.3, -0.75, 0.09))
    c.paint(c.colour(_BLACK), pair.line(0.42, 0.08, 0, -0.04, 0.025))
    pair.eye(0.09, 0.36, 0.45)


def _horse(c: _Canvas) -> None:
    coat, mane = c.colour(_HIDE), c.colour(_WOOD) * c.uniform(0.3, 1)[:, None]
    c.paint(mane, c.line(-0.6, 0.05, -0.85, c.uniform(-0.6, -0.3), 0.08, 0.06))
    _legs(c, coat, 0.06)
    c.paint(mane, c.line(0.2, 0.2, 0.42, 0.75, 0.14, 0.1))
    c.paint(coat, c.ellipse(-0.08, -0.05, 0.58, 0.28), c.line(0.35, 0.05, 0.55, 0.6, 0.23, 0.12))
    c.paint(coat, c.line(0.55, 0.62, 0.86, 0.36, 0.14, 0.09), c.polygon((0.42, 0.65), (0.58, 0.68), (0.5, 0.92)))
    c.paint(coat * 0.6, c.ellipse(0.89, 0.34, 0.08, 0.09))
    c.paint(c.colour(_BLACK), c.circle(0.63, 0.62, 0.04))


def _legs(c: _Canvas, coat: Tensor, radius: float) -> None:
    for x, shade in ((-0.5, 0.6), (0.25, 0.6), (-0.36, 0.85), (0.38, 0.85)):
        c.paint(coat * shade, c.line(x, -0.2, x + c.uniform(-0.1, 0.1), -0.9, radius * 1.4, radius))


def _ship(c: _Canvas) -> None:
    hull, mast, motor = c.colour(_PAINT), c.uniform(0.6, 0.9), c.unless(0.6)
    sail = 9 - motor
    c.paint(c.colour(_BLACK), c.line(0.05, -0.2, 0.05, mast, 0.025))
    c.paint(c.colour(_WHITE), c.polygon((0, -0.05), (0, mast), (-0.6, -0.05)) + sail)
    c.paint(c.colour(_PAINT), c.polygon((0.12, -0.05), (0.6, -0.05), (0.12, mast - 0.1)) + sail)
    c.paint(c.colour(_PAINT), c.box(-0.3, 0.4, 0.1, 0.22) + motor)
    c.paint(c.colour(_PAINT), c.box(-0.15, 0, 0.5, 0.2) + motor, c.box(-0.05, 0.25, 0.3, 0.12) + motor)
    c.paint(c.colour(_BLACK), c.folded(-0.15).repeated(0.18, 3).circle(0, 0.05, 0.05) + motor)
    c.paint(hull, c.polygon((-0.9, -0.15), (-0.72, -0.6), (0.62, -0.6), (0.98, -0.08)))
    c.paint(hull * 0.6, c.polygon((-0.8, -0.4), (-0.72, -0.6), (0.62, -0.6), (0.75, -0.4)))
    c.paint(c.colour(_GLASS), c.folded().ellipse(0.6, -0.6, 0.3, 0.07), c.ellipse(0, -0.6, 0.3, 0.07))


def _truck(c: _Canvas) -> None:
    top, front = c.uniform(0.4, 0.65), c.uniform(0.2, 0.38)
    c.paint(c.colour(_BLACK), c.box(0, -0.36, 0.9, 0.08))
    c.paint(c.colour(_PAINT), c.box(-0.33, (top - 0.3) / 2, 0.6, (top + 0.3) / 2))
    c.paint(c.colour(_PAINT), c.box(0.62, (front - 0.36) / 2, 0.29, (front + 0.36) / 2, 0.08))
    c.paint(c.colour(_GLASS), c.polygon((0.55, 0), (0.9, 0), (0.84, front - 0.08), (0.55, front - 0.08)))
    c.paint(c.colour(_LAMP), c.circle(0.88, -0.2, 0.06))
    c.wheels(-0.42, c.uniform(0.15, 0.19), -0.7, -0.32, 0.58)


# How each class is drawn, its largest rotation in radians, and its backgrounds; repeated ones are more frequent.
_SUBJECTS = {
    "airplane": (_airplane, 0.5, "sky sky sky sea meadow road plain"),
    "automobile": (_automobile, 0.12, "road road road meadow forest plain"),
    "bird": (_bird, 0.35, "sky sky meadow forest sea plain"),
    "cat": (_cat, 0.2, "room room meadow plain road"),
    "deer": (_deer, 0.12, "meadow meadow forest forest plain"),
    "dog": (_dog, 0.2, "room room meadow meadow plain road"),
    "frog": (_frog, 0.2, "meadow forest sea plain room"),
    "horse": (_horse, 0.12, "meadow meadow forest road plain"),
    "ship": (_ship, 0.15, "sea sea sea sky plain"),
    "truck": (_truck, 0.12, "road road road meadow forest plain"),
}
CLASSES: tuple[str, ...] = tuple(_SUBJECTS)


def _draw(name: str, count: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw images of one class, (n, H, W, 3) uint8."""
    c = _Canvas(count, size, generator)
    draw, turn, places = _SUBJECTS[name]

    kinds = torch.tensor([list(_PLACES).index(place) for place in places.split()])
    kind = kinds[torch.randint(len(kinds), (count,), generator=generator)]
    horizon, softness = _HORIZON[kind].T[:, :, None, None]
    ground = (horizon + c.uniform(-0.2, 0.2) - c.y) / softness + 0.5
    c.rgb = torch.lerp(c.colour(_UPPER[kind]), c.colour(_LOWER[kind]), ground.clamp(0, 1)[:, None])
    for _ in range(2):
        blob = c.ellipse(c.uniform(-1, 1), c.uniform(-1, 1), c.uniform(0.1, 0.6), c.uniform(0.1, 0.3))
        c.paint(c.colour(_LOWER.flatten(0, 1)), blob + c.unless(0.6))
    grain = torch.empty(count, 1, 6, 6).uniform_(0.88, 1.12, generator=generator)
    c.rgb *= F.interpolate(grain, size=(size, size), mode="bicubic")

    draw(c.posed(turn))

    front, colours = c.posed(1.5), torch.cat([_UPPER, _LOWER]).flatten(0, 1)
    bar = front.box(c.uniform(-0.8, 0.8), 0, c.uniform(0.06, 0.16), 9)
    blob = front.circle(c.uniform(-0.8, 0.8), 0, c.uniform(0.2, 0.36))
    c.paint(c.colour(colours), bar + c.unless(_OCCLUDED / 2), blob + c.unless(_OCCLUDED / 2))

    light = c.uniform(0.75, 1.15) + c.uniform(-0.2, 0.2) * c.x + c.uniform(-0.2, 0.2) * c.y
    c.rgb *= light[:, None]
    c.rgb.lerp_(F.avg_pool2d(F.pad(c.rgb, (1, 1, 1, 1), mode="replicate"), 3, 1), c.uniform(0, 0.7)[:, None])
    c.rgb += torch.randn(c.rgb.shape, generator=generator) * c.uniform(0, _NOISE)[:, None]
    return (c.rgb.clamp_(0, 1) * 255).round_().to(torch.uint8).permute(0, 2, 3, 1)


def draw_images(count: int, seed: int, image_size: int = 32) -> tuple[Tensor, Tensor]:
    """Draw images of all classes, in shuffled order.

    The same arguments give the same images on the same machine; torch's global generator is not used.

    Args:
        count: Number of images N, >= 1. Classes are equally frequent, to within one image.
        seed: Seed of everything random; training and test images need different ones.
        image_size: Height H and width W in pixels, >= 1.

    Returns:
        The images, (N, H, W, 3) uint8 RGB in [0, 255], and their labels, (N,) int64, which index CLASSES.

    Raises:
        ValueError: If count or image_size is less than 1.
    """
    if count < 1 or image_size < 1:
        raise ValueError(f"count and image_size must be at least 1, got {count} and {image_size}.")
    generator = torch.Generator().manual_seed(seed)
    images = torch.empty(count, image_size, image_size, 3, dtype=torch.uint8)
    labels = torch.arange(count) % len(CLASSES)
    labels = labels[torch.randperm(count, generator=generator)]
    for label in range(min(count, len(CLASSES))):
        for rows in torch.split((labels == label).nonzero()[:, 0], max(1, _CHUNK // image_size**2)):
            images[rows] = _draw(CLASSES[label], len(rows), image_size, generator)
    return images, labels
