//! `images --tree`: the images, each with the platform that it is there for below it.

use rustix::termios::tcgetwinsize;

use super::human;

/// What stands between columns.
const GAP: usize = 3;
/// The first column is not made narrower for the sake of the others.
const LEAST: usize = 12;
/// The width of what is no terminal.
const WIDTH: usize = 80;
/// What leads to what is below an image.
const BRANCH: &str = "└─ ";

/// An image, as it is shown.
#[derive(Debug, Clone, Default)]
pub(super) struct Shown {
    /// Its names in docker's short form.
    pub(super) names: Vec<String>,
    /// Its id, and its manifest's digest.
    pub(super) ids: (String, String),
    /// What it runs on.
    pub(super) platform: String,
    /// Bytes of its layers on disk.
    pub(super) disk: u64,
    /// Bytes of its layers, config and manifest in a registry.
    pub(super) content: u64,
    /// It has containers.
    pub(super) used: bool,
}

impl Shown {
    /// The columns behind the name.
    fn cells(&self, id: &str) -> [String; 4] {
        [
            format!("{:<12}", human::short_id(id)),
            format!("{:>10}", human::size(self.disk, 3)),
            format!("{:>12}", human::size(self.content, 3)),
            format!("{:^6}", if self.used { "✔" } else { "" }),
        ]
    }
}

/// The columns that standard output has room for.
pub(super) fn width() -> usize {
    match tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        _ => WIDTH,
    }
}

/// The tree, in lines of `width` characters. Columns that leave too little for names are left out.
pub(super) fn tree(images: &[Shown], width: usize) -> String {
    let titles = ["ID          ", "DISK USAGE", "CONTENT SIZE", "IN USE"];
    let (mut room, mut columns) = (width, 0);
    for title in titles {
        let takes = title.len() + GAP;
        if room < takes + LEAST {
            break;
        }
        room -= takes;
        columns += 1;
    }
    let below = |image: &Shown| format!("{BRANCH}{}", image.platform);
    let widest = images
        .iter()
        .flat_map(|image| image.names.iter().cloned().chain([below(image)]))
        .map(|name| name.chars().count())
        .max();
    let room = room.min(widest.unwrap_or(0).max(LEAST));

    let line = |name: &str, cells: &[String]| {
        let mut line = format!("{:<room$}", human::ellipsis(name, room));
        for cell in cells.iter().take(columns) {
            line.push_str(&" ".repeat(GAP));
            line.push_str(cell);
        }
        format!("{}\n", line.trim_end())
    };
    let mut text = line("IMAGE", &titles.map(str::to_owned));
    for (n, image) in images.iter().enumerate() {
        if n > 0 {
            text.push('\n');
        }
        let (last, others) = match image.names.split_last() {
            Some((last, others)) => (&**last, others),
            None => ("<untagged>", &[][..]),
        };
        for name in others {
            text.push_str(&line(name, &[]));
        }
        text.push_str(&line(last, &image.cells(&image.ids.0)));
        text.push_str(&line(&below(image), &image.cells(&image.ids.1)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_with_what_is_below_them() {
        let one = Shown {
            names: vec!["alpine:3".into(), "alpine:latest".into()],
            ids: (
                "sha256:0123456789abcdef".into(),
                "sha256:fedcba9876543210".into(),
            ),
            platform: "linux/amd64".into(),
            disk: 8_830_000,
            content: 3_640_000,
            used: true,
        };
        let two = Shown {
            names: Vec::new(),
            used: false,
            ..one.clone()
        };
        assert_eq!(
            tree(&[one.clone(), two.clone()], 80),
            "\
IMAGE            ID             DISK USAGE   CONTENT SIZE   IN USE
alpine:3
alpine:latest    0123456789ab       8.83MB         3.64MB     ✔
└─ linux/amd64   fedcba987654       8.83MB         3.64MB     ✔

<untagged>       0123456789ab       8.83MB         3.64MB
└─ linux/amd64   fedcba987654       8.83MB         3.64MB
"
        );
        assert_eq!(
            tree(&[one], 28),
            "\
IMAGE           ID
alpine:3
alpine:latest   0123456789ab
└─ linux/amd…   fedcba987654
"
        );
        assert_eq!(tree(&[], 5), "IMAGE\n");
    }
}
