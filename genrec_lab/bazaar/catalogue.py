"""What Bazaar's shops sell: the attributes of items, and the texts generated from them.

Departments, materials, colours, shapes, styles and ten brands are the same in every shop. Each shop has its
own twelve kinds of goods (two in each department, in the order of `DEPARTMENTS`) and four brands. An item is
a row of small integers, one for each attribute. Templates drawn at random turn this row into a title, a
description and categories. A sentence encoder can therefore recover the attributes, although titles vary in
their wording.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

DEPARTMENTS: Final = ("Tools", "Storage", "Lighting", "Textiles", "Seating", "Decoration")
KINDS_PER_DEPARTMENT: Final = 2

MATERIALS: Final = (
    "oak", "walnut", "bamboo", "steel", "brass", "copper", "glass", "ceramic", "linen", "wool",
    "cotton", "leather",
)  # fmt: skip
COLOURS: Final = ("crimson", "amber", "lemon", "olive", "teal", "cobalt", "plum", "rose", "ivory", "charcoal")
SHAPES: Final = (
    "round", "square", "triangular", "hexagonal", "star-shaped", "crescent", "leaf-shaped", "arched",
)  # fmt: skip
STYLES: Final = ("Nordic", "Rustic", "Industrial", "Bohemian", "Art Deco", "Coastal", "Retro", "Minimalist")
SHARED_BRANDS: Final = (
    "Alderway", "Brightloom", "Corvane", "Dovetail", "Everkind", "Foxglove", "Greyharbour", "Juniper",
    "Kestrel", "Lumora",
)  # fmt: skip

# There are no wooden blankets: each department uses a few materials. Each material occurs in at least two
# departments, so that a taste for it shows throughout a shop.
DEPARTMENT_MATERIALS: Final = {
    "Tools": ("oak", "walnut", "bamboo", "steel", "brass", "copper"),
    "Storage": ("oak", "bamboo", "steel", "glass", "ceramic", "leather"),
    "Lighting": ("bamboo", "steel", "brass", "copper", "glass", "ceramic"),
    "Textiles": ("linen", "wool", "cotton", "leather"),
    "Seating": ("oak", "walnut", "bamboo", "steel", "wool", "leather"),
    "Decoration": ("walnut", "brass", "copper", "glass", "ceramic", "linen", "cotton"),
}

SERIES: Final = (
    "Solstice", "Meridian", "Halcyon", "Cascade", "Drift", "Ember", "Fable", "Grove", "Harvest",
    "Idyll", "Jubilee", "Lattice", "Mistral", "Nomad", "Orchard", "Prairie", "Quarry", "Ripple",
    "Sonata", "Tundra", "Unison", "Vesper", "Willow", "Zephyr",
)  # fmt: skip


@dataclass(frozen=True)
class Shop:
    """A domain of Bazaar: its number, which seeds its random streams, its kinds of goods and its brands.

    `kinds` lists twelve (category, noun, other noun), two for each of `DEPARTMENTS` in that order;
    `purpose` ends the sentence "made for ...".
    """

    number: int
    name: str
    purpose: str
    brands: tuple[str, ...]
    kinds: tuple[tuple[str, str, str], ...]

    @property
    def all_brands(self) -> tuple[str, ...]:
        """The shared brands, then the shop's own, in the order of the brand numbers."""
        return SHARED_BRANDS + self.brands

    @property
    def categories(self) -> tuple[str, ...]:
        """The category path of each kind of goods: shop, department, kind."""
        departments = np.repeat(np.array(DEPARTMENTS), KINDS_PER_DEPARTMENT)
        return tuple(f"{self.name}, {d}, {kind[0]}" for d, kind in zip(departments, self.kinds, strict=True))


def _kinds(*departments: str) -> tuple[tuple[str, str, str], ...]:
    """Return (category, noun, other noun) of "Category: noun, other noun; ...", a line a department."""
    pairs = [kind.split(": ") for line in departments for kind in line.split("; ")]
    return tuple((category, *nouns.split(", ")) for category, nouns in pairs)  # type: ignore[misc]


SHOPS: Final = {
    shop.name: shop
    for shop in (
        Shop(0, "Garden", "terraces, flower beds and long summer evenings",
            ("Mossgate", "Petalworks", "Rainbarrel", "Sunpatch"), _kinds(
            "Hand Trowels: hand trowel, garden trowel; Watering Cans: watering can, sprinkling can",
            "Planters: planter, plant pot; Seed Boxes: seed box, seed organiser",
            "Lanterns: garden lantern, patio lantern; Path Lights: path light, walkway light",
            "Outdoor Cushions: outdoor cushion, bench pad; Picnic Blankets: picnic blanket, lawn blanket",
            "Benches: garden bench, park bench; Deck Chairs: deck chair, sun lounger",
            "Wind Chimes: wind chime, garden bell; Bird Baths: bird bath, bird fountain",
        )),
        Shop(1, "Kitchen", "cooking, baking and setting the table",
            ("Panwell", "Larderly", "Pepperfield", "Simmerhouse"), _kinds(
            "Chopping Boards: chopping board, cutting board; Ladles: ladle, serving spoon",
            "Jars: storage jar, pantry jar; Bread Bins: bread bin, bread box",
            "Pendant Lamps: pendant lamp, kitchen pendant; Candle Holders: candle holder, table candlestick",
            "Tea Towels: tea towel, dish towel; Aprons: kitchen apron, baking apron",
            "Bar Stools: bar stool, counter stool; Dining Chairs: dining chair, kitchen chair",
            "Wall Clocks: kitchen clock, wall clock; Fruit Bowls: fruit bowl, centrepiece bowl",
        )),
        Shop(2, "Studio", "painting, drawing and working with clay",
            ("Easelry", "Inkwell", "Ochre Lane", "Vellum"), _kinds(
            "Palette Knives: palette knife, painting knife; Brush Sets: paint brush set, set of brushes",
            "Portfolio Cases: portfolio case, sketch folder; Brush Pots: brush pot, pencil cup",
            "Easel Lamps: easel lamp, painting lamp; Drawing Lamps: drawing lamp, drafting light",
            "Smocks: artist smock, painting smock; Drop Cloths: drop cloth, studio floor cloth",
            "Drafting Chairs: drafting chair, drawing chair; Studio Stools: studio stool, potter's stool",
            "Picture Frames: picture frame, canvas frame; Figurines: figurine, small sculpture",
        )),
        Shop(3, "Workshop", "repairs, joinery and rainy weekends",
            ("Anvilcraft", "Benchmade", "Ratchet", "Timberlock"), _kinds(
            "Mallets: mallet, joiner's hammer; Hand Planes: hand plane, block plane",
            "Tool Chests: tool chest, toolbox; Part Trays: part tray, screw organiser",
            "Bench Lamps: bench lamp, workbench light; Inspection Lights: inspection light, work torch",
            "Work Aprons: work apron, shop apron; Polishing Cloths: polishing cloth, shop cloth",
            "Work Stools: work stool, bench stool; Rolling Seats: rolling seat, mechanic's seat",
            "Wall Signs: workshop sign, wall sign; Peg Rails: peg rail, hook board",
        )),
        Shop(4, "Wardrobe", "getting dressed with a little ceremony",
            ("Buttonhole", "Hemline", "Tailorbird", "Velvetine"), _kinds(
            "Garment Brushes: garment brush, lint brush; Shoe Horns: shoe horn, boot horn",
            "Hat Boxes: hat box, cap case; Jewellery Trays: jewellery tray, ring tray",
            "Mirror Lamps: mirror lamp, vanity light; Closet Lights: closet light, wardrobe light",
            "Scarves: scarf, neck scarf; Shawls: shawl, evening wrap",
            "Dressing Stools: dressing stool, vanity stool; Ottomans: ottoman, footstool",
            "Brooches: brooch, lapel pin; Hair Clips: hair clip, hair slide",
        )),
        Shop(5, "Playroom", "building, hiding and bedtime stories",
            ("Bumblebox", "Marzipan", "Puddle", "Wonderkin"), _kinds(
            "Toy Hammers: toy hammer, play hammer; Toy Spades: toy spade, sandbox spade",
            "Toy Chests: toy chest, toy box; Book Bins: book bin, picture book crate",
            "Night Lights: night light, bedside glow lamp; String Lights: string light, fairy light garland",
            "Play Mats: play mat, floor mat; Quilts: nursery quilt, cot blanket",
            "Children's Chairs: children's chair, little chair; Rocking Seats: rocking seat, toy rocker",
            "Mobiles: nursery mobile, hanging mobile; Growth Charts: growth chart, height ruler",
        )),
    )
}  # fmt: skip

# In the templates, {noun} and the attributes are columns. The first letter of the result is capitalised.
TITLES: Final = (
    "{style} {colour} {material} {noun}, {shape}",
    "{shape} {noun} in {colour} {material}, {style} style",
    "{series} {noun}: {style}, {shape}, {colour} {material}",
    "{colour} {noun} ({material}, {shape}) in the {style} look",
    "{material} {noun}, {shape} and {colour}, {style} collection",
)
OPENINGS: Final = (
    "A {shape} {noun} of {colour} {material}.",
    "This {noun} comes in {colour}; it is made of {material} and is {shape}.",
    "{colour} {material}, a {shape} outline: the {series} {noun}.",
    "Our makers shaped this {shape} {noun} from {material} and finished it in {colour}.",
)
MIDDLES: Final = (
    "Its {style} design goes with the rest of the {series} series.",
    "A {style} piece by {brand}, made for {purpose}.",
    "{brand} drew it for lovers of the {style} look.",
    "{style} in every detail, at home among {purpose}.",
)
ENDINGS: Final = (
    "About {size} cm across.",
    "Part of our {department} department, {size} cm.",
    "Wipe with a soft cloth. {size} cm.",
)


def kind_departments() -> np.ndarray:
    """Return the department of each kind of goods: (12,) int64 indices into `DEPARTMENTS`."""
    return np.repeat(np.arange(len(DEPARTMENTS)), KINDS_PER_DEPARTMENT)


@dataclass(frozen=True)
class Attributes:
    """The attributes of the items of one shop, each an (N,) int64 array of indices into its tuple of names.

    `kind` is an index into `Shop.kinds`, `brand` into `Shop.all_brands`, the others into the tuples of this
    file.
    """

    kind: np.ndarray
    material: np.ndarray
    colour: np.ndarray
    shape: np.ndarray
    style: np.ndarray
    brand: np.ndarray


# The probability that an item has its brand's house style; otherwise its style is drawn uniformly.
HOUSE_STYLE_RATE: Final = 0.4


def draw_attributes(shop: Shop, n_items: int, rng: np.random.Generator) -> Attributes:
    """Draw the attributes of `n_items` items of `shop`.

    All kinds of goods have the same number of items, in random order; the first kinds have one more if the
    number does not divide evenly. Materials are those of the kind's department. Styles lean towards the
    brand's house style.
    """
    kind = rng.permutation(np.arange(n_items) % len(shop.kinds))
    pools = [np.array([MATERIALS.index(m) for m in DEPARTMENT_MATERIALS[d]]) for d in DEPARTMENTS]
    pool_sizes = np.array([len(pool) for pool in pools])
    padded = np.stack([np.resize(pool, pool_sizes.max()) for pool in pools])
    department = kind_departments()[kind]
    material = padded[department, rng.integers(0, pool_sizes[department])]
    brand = rng.integers(0, len(shop.all_brands), n_items)
    in_house_style = rng.random(n_items) < HOUSE_STYLE_RATE
    # A brand's house style is its number modulo the number of styles, so shared brands keep it in every shop.
    style = np.where(in_house_style, brand % len(STYLES), rng.integers(0, len(STYLES), n_items))
    colour = rng.integers(0, len(COLOURS), n_items)
    shape = rng.integers(0, len(SHAPES), n_items)
    return Attributes(kind, material, colour, shape, style, brand)


def _phrase(templates: tuple[str, ...], columns: dict[str, pl.Expr], choice: pl.Expr) -> pl.Expr:
    """Fill in the template that `choice` selects for each row, and capitalise the first letter."""
    phrased: pl.Expr = pl.lit(None, dtype=pl.String)
    for number, template in enumerate(templates):
        fields = [piece.split("}")[0] for piece in template.split("{")[1:]]
        pattern = template
        for field in fields:
            pattern = pattern.replace("{" + field + "}", "{}")
        line = pl.format(pattern, *[columns[field] for field in fields])
        phrased = pl.when(choice == number).then(line).otherwise(phrased)
    return phrased.str.slice(0, 1).str.to_uppercase() + phrased.str.slice(1)


def describe(shop: Shop, attributes: Attributes, rng: np.random.Generator) -> pl.DataFrame:
    """Generate the texts of a shop's items, one row per item in order.

    Columns `title, key, brand, categories, description, material, colour, shape, style`.
    `rng` draws the templates, nouns, series and sizes; everything else follows from the attributes.
    """
    n_items = len(attributes.kind)
    other_noun = rng.integers(0, 2, n_items)
    nouns = np.array([kind[1:] for kind in shop.kinds])
    frame = pl.DataFrame(
        {
            "noun": nouns[attributes.kind, other_noun],
            "series": np.array(SERIES)[rng.integers(0, len(SERIES), n_items)],
            "size": rng.integers(12, 90, n_items),
            "department": np.array(DEPARTMENTS)[kind_departments()[attributes.kind]],
            "material": np.array(MATERIALS)[attributes.material],
            "colour": np.array(COLOURS)[attributes.colour],
            "shape": np.array(SHAPES)[attributes.shape],
            "style": np.array(STYLES)[attributes.style],
            "brand": np.array(shop.all_brands)[attributes.brand],
            "categories": np.array(shop.categories)[attributes.kind],
            "title_choice": rng.integers(0, len(TITLES), n_items),
            "opening": rng.integers(0, len(OPENINGS), n_items),
            "middle": rng.integers(0, len(MIDDLES), n_items),
            "ending": rng.integers(0, len(ENDINGS), n_items),
        }
    ).with_row_index("number")
    words = ("noun", "series", "size", "department", "material", "colour", "shape", "style", "brand")
    columns: dict[str, pl.Expr] = {word: pl.col(word) for word in words} | {"purpose": pl.lit(shop.purpose)}
    parts = (("opening", OPENINGS), ("middle", MIDDLES), ("ending", ENDINGS))
    sentences = [_phrase(templates, columns, pl.col(part)) for part, templates in parts]
    number = pl.col("number").cast(pl.String).str.zfill(7)
    return frame.select(
        _phrase(TITLES, columns, pl.col("title_choice")).alias("title"),
        pl.format("{}-{}", pl.lit(shop.name.lower()), number).alias("key"),
        pl.col("brand", "categories"),
        pl.concat_str(sentences, separator=" ").alias("description"),
        pl.col("material", "colour", "shape", "style"),
    )
