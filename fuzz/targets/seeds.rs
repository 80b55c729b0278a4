//! Writes seed inputs for every target: `seeds DIR` makes DIR/TARGET/seed-N.

use std::{env, error::Error, fs, path::Path};

// The linker takes the coverage callbacks from here.
use libfuzzer_sys as _;
use unlade_fuzz::seeds;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = env::args_os().nth(1).ok_or("usage: seeds DIR")?;
    for (target, inputs) in seeds::all() {
        let dir = Path::new(&dir).join(target);
        fs::create_dir_all(&dir)?;
        for (i, input) in inputs.iter().enumerate() {
            fs::write(dir.join(format!("seed-{i}")), input)?;
        }
    }
    Ok(())
}
