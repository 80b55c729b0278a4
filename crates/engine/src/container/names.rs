//! Names and ids of containers.

use crate::{
    error::{Error, Kind, Result},
    image::json::show,
    store::random_id,
};

/// Longest name, in bytes: it is part of host names and of files.
const MAX_NAME: usize = 255;

const FIRST: &str = "able airy alert amber ample apt aqua ardent avid azure balmy bold brave \
    brief bright brisk calm candid cheery chief civil clean clear clever coral cosy crisp curly \
    dapper deft dewy eager early earnest easy even fair famed fancy fast fine fit fleet fond frank \
    free fresh frosty gentle glad golden good grand green handy happy hardy hazel hearty honest \
    humble ideal ivory jolly jovial just keen kind large late leafy level light lilac lively loyal \
    lucid lucky lush mellow merry mild mint misty modest neat nimble noble olive open pearly plain \
    polite prime proud quick quiet rapid ready regal rosy round royal ruby rustic sandy sane sharp \
    silent silky simple sleek snug sober solid spry stable steady still sturdy sunny sure swift \
    tidy tranquil trim true upbeat velvet vivid warm wary wise witty young zesty";

const SECOND: &str = "acorn adder alder alpaca anchor apple aspen badger bamboo barley basil \
    beacon beaver beech birch bison bobcat bramble bridge brook cabin candle canoe canyon caribou \
    cedar cherry clover cobalt comet compass condor copper coral cove cricket crystal cypress dahlia \
    daisy delta dingo dolphin dune eagle egret elm ember falcon fennel fern ferret finch fjord \
    flint forest fox gannet garden gecko geyser ginger glacier granite grove gull harbor hare \
    harvest hazel heron hickory holly ibex iris island ivy jasmine juniper kestrel kettle koala \
    lagoon lake lantern larch lark laurel lemur lichen lily linden lynx magnolia maple marble \
    marmot marten meadow mesa mole moose moss nettle newt nutmeg oak oasis ocelot orchid oriole \
    osprey otter owl panda pebble pelican pepper pine plover pond poplar poppy prairie puffin \
    quail quartz rabbit raven reed reef river robin rowan saffron sage salmon seal sequoia shore \
    sparrow spruce starling stoat stork summit swallow swan tapir teal thistle thrush thyme tiger \
    tulip tundra turtle valley violet walnut walrus warbler willow wolf wombat wren yarrow zebra";

/// Checks a name by docker's grammar; a leading slash is passed over.
///
/// # Errors
/// [`Kind::BadInput`] with docker's words.
pub fn check(name: &str) -> Result<&str> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let first = bare
        .as_bytes()
        .first()
        .is_some_and(u8::is_ascii_alphanumeric);
    if first && (2..=MAX_NAME).contains(&bare.len()) && bare.bytes().all(good) {
        return Ok(bare);
    }
    let m = format!(
        "Invalid container name ({}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
        show(name)
    );
    Err(Error::new(Kind::BadInput, m).with_hint("names have 2 to 255 characters"))
}

fn random() -> Result<[u8; 5]> {
    let mut bytes = [0; 5];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::new(Kind::Host, format!("get random bytes: {e}")))?;
    Ok(bytes)
}

/// A name of two words; after some that were taken, with a number.
///
/// # Errors
/// If the host has no random bytes.
pub fn generate(tries: usize) -> Result<String> {
    let word = |words: &str, n: u16| {
        let count = words.split_whitespace().count();
        words
            .split_whitespace()
            .nth(usize::from(n) % count.max(1))
            .unwrap_or("one")
            .to_owned()
    };
    let [a, b, c, d, e] = random()?;
    let name = format!(
        "{}_{}",
        word(FIRST, u16::from_le_bytes([a, b])),
        word(SECOND, u16::from_le_bytes([c, d]))
    );
    Ok(if tries < 3 {
        name
    } else {
        format!("{name}{e}")
    })
}

/// An id: 64 hexadecimal digits. One that reads as a number is avoided, as docker does: its
/// beginning is a host name.
///
/// # Errors
/// If the host has no random bytes.
pub fn new_id() -> Result<String> {
    loop {
        let id = random_id()?;
        if !id[..12].bytes().all(|b| b.is_ascii_digit()) {
            return Ok(id);
        }
    }
}

/// Whether `text` is a whole id: what is joined to paths is.
pub fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar() {
        for (name, want) in [("a1", "a1"), ("/a.b-c_d", "a.b-c_d"), ("0x", "0x")] {
            assert_eq!(check(name).unwrap(), want);
        }
        for name in ["", "a", "_a", ".a", "a/b", "a b", "é2", "//ab", "a\n"] {
            let e = check(name).unwrap_err();
            let want = "only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed";
            assert!(e.message().ends_with(want) && e.hint().is_some(), "{e}");
        }
        assert!(check(&"a".repeat(256)).is_err() && check(&"a".repeat(255)).is_ok());
    }

    #[test]
    fn generated_ones_are_allowed() {
        let mut seen = std::collections::HashSet::new();
        for tries in 0..200 {
            let name = generate(tries).unwrap();
            assert_eq!(check(&name).unwrap(), name);
            assert!(name.contains('_'));
            seen.insert(name);
        }
        assert!(seen.len() > 150);
        for words in [FIRST, SECOND] {
            let all: Vec<_> = words.split_whitespace().collect();
            let once: std::collections::HashSet<_> = all.iter().collect();
            assert_eq!(all.len(), once.len());
        }
        let id = new_id().unwrap();
        assert!(is_id(&id) && id != new_id().unwrap());
        assert!(
            !is_id("../../x") && !is_id(&id[..63]) && !is_id(&id.to_uppercase().replace('0', "G"))
        );
    }
}
