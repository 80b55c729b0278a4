use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn password(user: &str, password: &str) -> Option<Credentials> {
    Some(password_of(user, password))
}

fn file(text: &str) -> AuthFile {
    AuthFile::parse(Path::new("auth.json"), text.as_bytes()).unwrap()
}

fn encoded(text: &str) -> String {
    STANDARD.encode(text)
}

#[test]
fn entries_of_docker_and_podman() {
    let (a, b, c) = (encoded("hub:1"), encoded("me:a:b"), encoded("ns:2"));
    let f = file(&format!(
        r#"{{"auths": {{"https://index.docker.io/v1/": {{"auth": "{a}"}},
            "h.io:5000": {{"auth": "{b}"}}, "h.io:5000/team": {{"auth": "{c}"}},
            "https://old.io/v2/": {{"username": "u", "password": "p"}},
            "token.io": {{"auth": "{b}", "identitytoken": "idt"}},
            "raw.io": {{"registrytoken": "rt"}}, "empty.io": {{}}}}}}"#
    ));
    let find = |host, repository| f.find(host, repository).unwrap();
    for host in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
        assert_eq!(find(host, "library/alpine"), password("hub", "1"));
    }
    assert_eq!(find("h.io:5000", "x"), password("me", "a:b"));
    assert_eq!(find("h.io:5000", "team/x"), password("ns", "2"));
    assert_eq!(find("h.io:5000", "team"), password("ns", "2"));
    assert_eq!(find("h.io:5000", "teams/x"), password("me", "a:b"));
    assert_eq!(find("h.io", "x"), None);
    assert_eq!(find("old.io", "x"), password("u", "p"));
    assert_eq!(find("empty.io", "x"), None);
    let token = |t| Secret::new(t);
    assert_eq!(
        find("token.io", "x"),
        Some(Credentials::IdentityToken(token("idt")))
    );
    assert_eq!(
        find("raw.io", "x"),
        Some(Credentials::RegistryToken(token("rt")))
    );
}

#[test]
fn helpers_by_host() {
    let f = file(r#"{"credsStore": "all", "credHelpers": {"h.io": "one", "docker.io": "hub"}}"#);
    assert_eq!(f.helper_for("h.io"), Some("one"));
    assert_eq!(f.helper_for("docker.io"), Some("hub"));
    assert_eq!(f.helper_for("x.io"), Some("all"));
    assert_eq!(file("{}").helper_for("x.io"), None);
}

#[test]
fn broken_files_do_not_show_what_is_in_them() {
    for text in [
        r#"{"auths": {"x": {"auth": "s3cret"#,
        "[\"s3cret\"]",
        "s3cret",
    ] {
        let e = AuthFile::parse(Path::new("f"), text.as_bytes()).unwrap_err();
        assert!(!format!("{e:?}").contains("s3cret"), "{e:?}");
    }
    let f = file(r#"{"auths": {"x.io": {"auth": "s3cret!"}}}"#);
    let e = f.find("x.io", "y").unwrap_err();
    assert!(!format!("{e:?} {f:?}").contains("s3cret"), "{e:?}");
}

fn files(dir: &Path) -> CredentialFiles {
    CredentialFiles {
        files: vec![dir.join("auth.json"), dir.join("config.json")],
        store: Some(dir.join("config.json")),
        helper_path: Some(dir.join("bin").into()),
        helper_timeout: Duration::from_secs(10),
    }
}

#[test]
fn login_and_logout_keep_what_else_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    fs::write(
        &path,
        r#"{"psFormat": "x", "auths": {"other.io": {"auth": "YTpi"}}}"#,
    )
    .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let f = files(dir.path());
    for (host, credentials) in [
        ("h.io:5000", password_of("me", "pw")),
        ("docker.io", password_of("<token>", "idt")),
    ] {
        assert_eq!(f.find(host, "x").unwrap(), None);
        f.store(host, &credentials).unwrap();
        assert_eq!(f.find(host, "x").unwrap(), Some(credentials));
    }
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.contains("psFormat") && text.contains(HUB_KEY),
        "{text}"
    );
    assert!(f.erase("h.io:5000").unwrap() && f.erase("docker.io").unwrap());
    assert!(!f.erase("h.io:5000").unwrap());
    assert_eq!(f.find("h.io:5000", "x").unwrap(), None);
    assert_eq!(f.find("other.io", "x").unwrap(), password("a", "b"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_linked_file_stays_linked() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("real")).unwrap();
    let real = dir.path().join("real/c.json");
    fs::write(&real, "").unwrap();
    std::os::unix::fs::symlink(&real, dir.path().join("config.json")).unwrap();
    files(dir.path())
        .store("h.io", &password_of("a", "b"))
        .unwrap();
    assert!(dir.path().join("config.json").is_symlink());
    assert!(fs::read_to_string(&real).unwrap().contains("h.io"));
}

fn helper(dir: &Path, name: &str, script: &str) {
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).unwrap();
    let path = bin.join(format!("docker-credential-{name}"));
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

const STORE: &str = r#"
f="$(dirname "$0")/../kept"
case "$1" in
store) cat > "$f" ;;
get) read -r url; [ -e "$f" ] && grep -q "$url" "$f" && cat "$f" ||
  { echo "credentials not found in native keychain"; exit 1; } ;;
erase) rm "$f" ;;
esac"#;

#[test]
fn a_helper_keeps_them() {
    let dir = tempfile::tempdir().unwrap();
    helper(dir.path(), "kept", STORE);
    fs::write(dir.path().join("config.json"), r#"{"credsStore": "kept"}"#).unwrap();
    let f = files(dir.path());
    assert_eq!(f.find("h.io", "x").unwrap(), None);
    for credentials in [password_of("me", "p\"w"), password_of("<token>", "idt")] {
        assert_eq!(
            f.store("h.io", &credentials).unwrap(),
            "docker-credential-kept"
        );
        assert_eq!(f.find("h.io", "x").unwrap(), Some(credentials));
    }
    let text = fs::read_to_string(dir.path().join("config.json")).unwrap();
    assert!(text.contains("h.io") && !text.contains("idt"), "{text}");
    assert!(f.erase("h.io").unwrap());
    assert_eq!(f.find("h.io", "x").unwrap(), None);
    assert!(!f.erase("h.io").unwrap());
}

#[test]
fn helpers_that_fail_are_named() {
    let dir = tempfile::tempdir().unwrap();
    helper(
        dir.path(),
        "fails",
        "echo 'no session at https://x/?token=s3cret'; exit 1",
    );
    helper(dir.path(), "hangs", "exec sleep 60");
    helper(dir.path(), "babbles", "yes");
    helper(dir.path(), "odd", "echo '{'");
    for (name, part) in [
        ("fails", "no session at https://x/"),
        ("hangs", "did not end within"),
        ("babbles", "failed"),
        ("odd", "no JSON"),
        ("missing", "is not installed"),
        ("../bin/fails", "is no name"),
    ] {
        let text = json!({"credHelpers": {"h.io": name}}).to_string();
        fs::write(dir.path().join("config.json"), text).unwrap();
        let mut f = files(dir.path());
        f.helper_timeout = Duration::from_millis(if name == "hangs" { 100 } else { 10_000 });
        let e = f.find("h.io", "x").unwrap_err();
        assert!(e.message().contains(part), "{e}");
        assert!(e.hint().is_some() && !e.message().contains("s3cret"));
    }
}
