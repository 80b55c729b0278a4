//! A unit for systemd that runs `unlade system boot`.

use std::path::Path;

use crate::{
    config::Config,
    error::{Error, Result},
};

/// The unit for this program, with `args` before the command.
pub(super) fn unit(config: &Config, args: &[String]) -> Result<String> {
    let program =
        std::env::current_exe().map_err(|e| Error::host("find this program's own file", e))?;
    Ok(text(&program, config, args))
}

fn text(program: &Path, config: &Config, args: &[String]) -> String {
    let mut words = vec![quoted(&program.display().to_string())];
    words.extend(args.iter().map(|a| quoted(a)));
    format!(
        "[Unit]
Description=Containers that unlade starts after a boot
Wants=network-online.target
After=network-online.target local-fs.target remote-fs.target
RequiresMountsFor={} {}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={} system boot
# Containers and their shims outlive this unit.
KillMode=process

[Install]
WantedBy=multi-user.target
",
        quoted(&config.root.display().to_string()),
        quoted(&config.run_root.display().to_string()),
        words.join(" "),
    )
}

/// A word as systemd reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let mut out = String::from("\"");
    for c in word.chars() {
        match c {
            '\\' | '"' => out.extend(['\\', c]),
            '%' | '$' => out.extend([c, c]),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_systemd_would_split_or_expand() {
        for (word, want) in [
            ("/usr/bin/unlade", "/usr/bin/unlade"),
            ("/a b", "\"/a b\""),
            ("50%$x\"\\", "\"50%%$$x\\\"\\\\\""),
            ("", "\"\""),
        ] {
            assert_eq!(quoted(word), want);
        }
        let config = Config {
            root: "/my root".into(),
            ..Config::default()
        };
        let args = ["--root".to_owned(), "/my root".to_owned()];
        let unit = text(Path::new("/bin/unlade"), &config, &args);
        for line in [
            "ExecStart=/bin/unlade --root \"/my root\" system boot",
            "RequiresMountsFor=\"/my root\" /run/unlade",
        ] {
            assert!(unit.lines().any(|l| l == line), "{unit}");
        }
    }
}
