//! The goods that a new shop begins with.

use rusqlite::Connection;
use sinew_core::{Clock, new_id};

use super::products::add;
use crate::{
    domain::{
        money::{Currency, Money},
        product::Product,
    },
    fault::Result,
};

/// (name, description, price in cents, pieces)
type Good = (&'static str, &'static str, i64, i64);

const GOODS: [Good; 40] = [
    (
        "Oak cutting board",
        "Solid oak, oiled, with a groove for the juice.",
        3490,
        400,
    ),
    (
        "Chef's knife 20 cm",
        "Forged steel, full tang, for almost everything.",
        7900,
        250,
    ),
    ("Paring knife", "A small blade for small work.", 1890, 500),
    (
        "Cast-iron pan 26 cm",
        "Heavy, seasoned, for a lifetime.",
        4990,
        300,
    ),
    (
        "Stockpot 8 l",
        "Stainless steel with a thick base.",
        6490,
        200,
    ),
    ("Enamel mug", "White with a blue rim.", 990, 2000),
    (
        "Espresso cups, set of 4",
        "Porcelain, thick-walled.",
        2490,
        600,
    ),
    ("Moka pot, 6 cups", "Aluminium, for the stove.", 3290, 450),
    (
        "Kettle, whistling",
        "Two litres, tells when it boils.",
        3990,
        350,
    ),
    ("Tea strainer", "Fine mesh, fits every mug.", 790, 1500),
    ("Linen tea towel", "Stone-washed, 50 × 70 cm.", 1290, 1200),
    ("Apron, canvas", "With a pocket for the spoon.", 2990, 400),
    ("Bread tin", "For a loaf of one kilo.", 1690, 700),
    ("Rolling pin", "Beech, without handles.", 1490, 650),
    ("Mixing bowl 3 l", "Stoneware, glazed inside.", 2290, 500),
    ("Storage jars, set of 3", "Glass with cork lids.", 2790, 550),
    ("Salt pig", "Keeps salt dry and at hand.", 1590, 600),
    ("Pepper mill", "Walnut with a steel grinder.", 3690, 380),
    ("Wooden spoons, set of 3", "Olive wood.", 1190, 1000),
    ("Kitchen scale", "To the gram, up to five kilos.", 2590, 420),
    ("Reading lamp", "Brass arm, warm light.", 8900, 180),
    ("Wool blanket", "130 × 180 cm, undyed.", 9900, 150),
    (
        "Floor cushion",
        "Cotton cover, buckwheat filling.",
        4490,
        300,
    ),
    ("Candle, beeswax", "Burns for forty hours.", 1390, 1800),
    ("Wall clock", "Quiet sweep, 30 cm.", 4290, 260),
    ("Coat hooks, oak", "A rail with five hooks.", 3190, 340),
    ("Door mat", "Coconut fibre.", 2190, 480),
    ("Laundry basket", "Willow, lined.", 4690, 220),
    ("Watering can 5 l", "Zinc, with a long spout.", 3390, 310),
    ("Plant pot 20 cm", "Terracotta with saucer.", 1290, 1400),
    ("Garden trowel", "Stainless steel, ash handle.", 1690, 700),
    ("Pruning shears", "Bypass blades, replaceable.", 3490, 400),
    ("Notebook, ruled", "192 pages, lies flat.", 1490, 2500),
    ("Fountain pen", "Steel nib, fine.", 3990, 320),
    ("Pencils, set of 12", "Cedar, 2B.", 890, 3000),
    ("Desk organiser", "Felt and birch.", 2890, 350),
    ("Canvas backpack", "Twenty litres, waxed.", 8490, 160),
    ("Water bottle 0.75 l", "Insulated steel.", 2690, 900),
    ("Pocket umbrella", "Opens and closes by itself.", 2990, 650),
    ("Travel adapter", "For sockets of 150 countries.", 2490, 800),
];

/// Fills an empty shop, in the transaction that makes its tables, so that it happens once.
pub(super) fn fill(db: &Connection) -> Result<()> {
    let now = Clock::system().now().as_millis();
    let created_ms = i64::try_from(now).unwrap_or(i64::MAX);
    for (name, description, cents, available) in GOODS {
        let product = Product {
            id: new_id(),
            name: name.to_owned(),
            description: description.to_owned(),
            price: Money::new(cents, Currency::EUR),
            available,
            created_ms,
            changed_ms: created_ms,
        };
        add(db, &product)?;
    }
    Ok(())
}
