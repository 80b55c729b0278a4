//! Test 22: tokens, passwords, and to whom they are shown.

use std::sync::Arc;

use unlade_engine::{
    error::Kind,
    registry::{
        Client, Credentials, RegistryConfig, Secret,
        credentials::{CredentialSource, Fixed},
    },
};

use crate::{
    app, config, good_error,
    server::{Reply, Seen, Server, manifest},
};

pub fn password() -> Credentials {
    Credentials::Password {
        user: "me".into(),
        password: Secret::new("s3cret"),
    }
}

/// `me:s3cret`
pub const BASIC: &str = "Basic bWU6czNjcmV0";

pub fn with(config: RegistryConfig, host: &str, credentials: Credentials) -> Client {
    let source: Arc<dyn CredentialSource> = Arc::new(Fixed {
        host: host.to_owned(),
        credentials,
    });
    Client::new(RegistryConfig {
        credentials: source,
        ..config
    })
    .unwrap()
}

pub fn with_password(config: RegistryConfig, host: &str) -> Client {
    with(config, host, password())
}

fn challenge(realm: &str) -> Reply {
    let value = format!("Bearer realm=\"{realm}\",service=\"svc\",scope=\"repository:evil:push\"");
    Reply::json(
        401,
        r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#,
    )
    .with("www-authenticate", value)
}

/// A registry that takes `token`, and names `realm`.
fn registry(realm: String, token: &'static str) -> Server {
    Server::new(move |seen| {
        if seen.header("authorization") == format!("Bearer {token}") {
            manifest()
        } else {
            challenge(&realm)
        }
    })
}

fn token_server(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> (Server, String) {
    let server = Server::new(answer);
    let realm = format!("http://{}/token?a=b", server.host());
    (server, realm)
}

#[tokio::test]
async fn an_anonymous_token() {
    let (tokens, realm) = token_server(|_| Reply::json(200, r#"{"token":"t1","expires_in":300}"#));
    let server = registry(realm, "t1");
    let client = Client::new(config()).unwrap();
    for _ in 0..3 {
        client.resolve(&app(&server.host())).await.unwrap();
    }
    // One refusal, one token, and no question after that.
    assert_eq!(server.seen().len(), 4);
    let seen = &tokens.seen();
    assert_eq!(seen.len(), 1);
    // What we want, not what the registry suggests.
    assert_eq!(
        seen[0].query("scope").as_deref(),
        Some("repository:team/app:pull")
    );
    assert_eq!(seen[0].query("service").as_deref(), Some("svc"));
    assert_eq!(seen[0].query("a").as_deref(), Some("b"));
    assert!(!seen[0].headers.contains_key("authorization"));
}

#[tokio::test]
async fn many_at_once_fetch_one_token() {
    let (tokens, realm) = token_server(|_| Reply::json(200, r#"{"access_token":"t1"}"#));
    let server = registry(realm, "t1");
    let client = Client::new(config()).unwrap();
    let reference = app(&server.host());
    client.resolve(&reference).await.unwrap();
    let other =
        unlade_engine::image::Reference::parse(&format!("{}/other", server.host())).unwrap();
    let all: Vec<_> = (0..20)
        .map(|_| {
            let (client, other) = (client.clone(), other.clone());
            tokio::spawn(async move { client.resolve(&other).await })
        })
        .collect();
    for one in all {
        one.await.unwrap().unwrap();
    }
    assert_eq!(tokens.seen().len(), 2);
}

#[tokio::test]
async fn a_password_for_a_token() {
    let (tokens, realm) = token_server(|seen| match seen.header("authorization") {
        BASIC => Reply::json(200, r#"{"token":"t1"}"#),
        _ => Reply::json(401, r#"{"details":"incorrect username or password"}"#),
    });
    let server = registry(realm, "t1");
    let client = with_password(config(), &server.host());
    client.resolve(&app(&server.host())).await.unwrap();
    assert_eq!(tokens.seen()[0].query("account").as_deref(), Some("me"));
    assert!(
        server
            .seen()
            .iter()
            .all(|s| !s.header("authorization").starts_with("Basic"))
    );
    let wrong = Credentials::Password {
        user: "me".into(),
        password: Secret::new("s3cret2"),
    };
    let client = with(config(), &server.host(), wrong);
    let e = client.resolve(&app(&server.host())).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Denied);
    good_error(&e, "incorrect username or password");
}

#[tokio::test]
async fn oauth2_with_an_identity_token_and_as_a_fall_back() {
    let (tokens, realm) = token_server(|seen| {
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        match &*seen.method {
            "GET" => Reply::new(405),
            _ if body.contains("grant_type=refresh_token&refresh_token=s3cret")
                || body.contains("grant_type=password&username=me&password=s3cret") =>
            {
                Reply::json(200, r#"{"access_token":"t1","expires_in":900}"#)
            }
            _ => Reply::new(400),
        }
    });
    let server = registry(realm, "t1");
    let identity = Credentials::IdentityToken(Secret::new("s3cret"));
    let client = with(config(), &server.host(), identity);
    client.resolve(&app(&server.host())).await.unwrap();
    assert_eq!(tokens.lines(), ["POST /token"]);
    let form = String::from_utf8(tokens.seen()[0].body.clone()).unwrap();
    assert!(
        form.starts_with("client_id=unlade&service=svc&scope=repository%3Ateam%2Fapp%3Apull&"),
        "{form}"
    );
    let client = with_password(config(), &server.host());
    client.resolve(&app(&server.host())).await.unwrap();
    assert_eq!(tokens.lines()[1..], ["GET /token", "POST /token"]);
    let raw = Credentials::RegistryToken(Secret::new("t1"));
    let client = with(config(), &server.host(), raw);
    client.resolve(&app(&server.host())).await.unwrap();
    assert_eq!(tokens.seen().len(), 3);
}

#[tokio::test]
async fn a_token_that_ends_early_is_fetched_anew() {
    let (tokens, realm) =
        token_server(|seen| Reply::json(200, &format!(r#"{{"token":"t{}"}}"#, seen.number)));
    let used = std::sync::atomic::AtomicUsize::new(0);
    let server = Server::new(move |seen| {
        // Each token is good once.
        let n = used.load(std::sync::atomic::Ordering::SeqCst);
        if seen.header("authorization") == format!("Bearer t{n}") {
            used.store(n + 1, std::sync::atomic::Ordering::SeqCst);
            manifest()
        } else {
            challenge(&realm)
        }
    });
    let client = Client::new(config()).unwrap();
    for _ in 0..3 {
        client.resolve(&app(&server.host())).await.unwrap();
    }
    assert_eq!(tokens.seen().len(), 3);
}

#[tokio::test]
async fn tokens_that_are_never_good() {
    let (tokens, realm) = token_server(|_| Reply::json(200, r#"{"token":"s3cret"}"#));
    let server = registry(realm, "other");
    let client = Client::new(config()).unwrap();
    let e = client.resolve(&app(&server.host())).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Denied);
    good_error(&e, "is refused");
    assert_eq!((server.seen().len(), tokens.seen().len()), (3, 2));
}

#[tokio::test]
async fn basic_passwords() {
    let server = Server::new(|seen| match seen.header("authorization") {
        BASIC => manifest(),
        _ => Reply::new(401).with("www-authenticate", "Negotiate, Basic realm=\"here\""),
    });
    let reference = app(&server.host());
    let client = with_password(config(), &server.host());
    client.resolve(&reference).await.unwrap();
    client.resolve(&reference).await.unwrap();
    assert_eq!(server.seen().len(), 3);
    let e = Client::new(config())
        .unwrap()
        .resolve(&reference)
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Denied);
    good_error(&e, "unlade login");
    let wrong = Credentials::Password {
        user: "me".into(),
        password: Secret::new("s3cret2"),
    };
    let e = with(config(), &server.host(), wrong)
        .resolve(&reference)
        .await
        .unwrap_err();
    good_error(&e, "password refused");
}

#[tokio::test]
async fn odd_challenges() {
    for (value, part) in [
        ("", "authentication of kind ``"),
        ("Negotiate", "`negotiate`"),
        ("Bearer service=\"x\"", "does not say from where"),
        ("Bearer realm=\"not a url\"", "does not say from where"),
        ("Bearer realm=\"http://example.com/token\"", "plain HTTP"),
        ("Bearer realm=\"http://169.254.169.254/\"", "token server"),
        (
            "Bearer realm=\"https://169.254.169.254/\"",
            "a link-local address",
        ),
        ("Bearer realm=\"file:///etc/passwd\"", "`file`"),
    ] {
        let server = Server::new(move |_| Reply::new(401).with("www-authenticate", value));
        let client = with_password(config(), &server.host());
        let e = client.resolve(&app(&server.host())).await.unwrap_err();
        good_error(&e, part);
        assert_eq!(server.seen().len(), 1, "{value}");
    }
}

#[tokio::test]
async fn credentials_stay_with_their_registry() {
    // A registry that is not on this machine, as far as names go: through a proxy.
    let proxy = Server::new(|seen| {
        if seen.target.starts_with("http://tokens.evil/") {
            return Reply::json(200, r#"{"token":"t1"}"#);
        }
        if seen.header("authorization") == "Bearer t1" && seen.target.contains("open") {
            return manifest();
        }
        challenge("http://tokens.evil/token")
    });
    let mut config = config();
    config.proxies.http = Some(format!("http://{}", proxy.host()));
    config.proxies.https = config.proxies.http.clone();
    config.insecure = vec!["app.example".into(), "tokens.evil".into()];
    let client = with_password(config.clone(), "app.example");
    let open = unlade_engine::image::Reference::parse("app.example/open").unwrap();
    client.resolve(&open).await.unwrap();
    let e = client.resolve(&app("app.example")).await.unwrap_err();
    good_error(&e, "list it under `trusted-hosts`");
    let to_evil: Vec<_> = (proxy.seen().into_iter())
        .filter(|s| s.target.starts_with("http://tokens.evil/"))
        .collect();
    assert!(!to_evil.is_empty());
    assert!(
        to_evil
            .iter()
            .all(|s| !s.headers.contains_key("authorization"))
    );
    // Where that is said to be right, they are sent.
    config.trusted_hosts = vec!["tokens.evil".into()];
    let client = with_password(config, "app.example");
    client.resolve(&open).await.unwrap();
    assert_eq!(
        proxy
            .seen()
            .iter()
            .filter(|s| s.header("authorization") == BASIC)
            .count(),
        1
    );
}

#[tokio::test]
async fn token_servers_that_fail() {
    for (reply, part) in [
        (Reply::json(200, "{}"), "no token in the answer"),
        (Reply::json(200, "[1"), "no token in the answer"),
        (Reply::new(503), "after 5 tries"),
        (Reply::new(403), "403"),
        (Reply::redirect("https://169.254.169.254/"), "link-local"),
        (Reply::new(200).body(vec![b' '; (1 << 20) + 1]), "more than"),
    ] {
        let (_tokens, realm) = token_server(move |_| reply.clone());
        let server = registry(realm, "t");
        let e = Client::new(config())
            .unwrap()
            .resolve(&app(&server.host()))
            .await
            .unwrap_err();
        good_error(&e, part);
    }
}

#[tokio::test]
async fn logins() {
    let (tokens, realm) = token_server(|seen| match seen.header("authorization") {
        BASIC => Reply::json(200, r#"{"token":"t1","refresh_token":"r1"}"#),
        _ => Reply::new(401),
    });
    let server = registry(realm, "t1");
    let client = Client::new(config()).unwrap();
    let login = client
        .login_check(&server.host(), &password())
        .await
        .unwrap();
    assert!(login.needed);
    assert_eq!(login.keep, Credentials::IdentityToken(Secret::new("r1")));
    assert_eq!(
        tokens.seen()[0].query("offline_token").as_deref(),
        Some("true")
    );
    assert_eq!(server.lines(), ["GET /v2/", "GET /v2/"]);
    let wrong = Credentials::Password {
        user: "me".into(),
        password: Secret::new("s3cret2"),
    };
    let e = client
        .login_check(&server.host(), &wrong)
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Denied);
    good_error(&e, "401");

    let server = Server::new(|seen| match seen.header("authorization") {
        BASIC => Reply::json(200, "{}"),
        _ => Reply::new(401).with("www-authenticate", "Basic realm=\"x\""),
    });
    let login = client
        .login_check(&server.host(), &password())
        .await
        .unwrap();
    assert_eq!(login.keep, password());
    let e = client
        .login_check(&server.host(), &wrong)
        .await
        .unwrap_err();
    good_error(&e, "password refused");
    let server = Server::new(|_| Reply::json(200, "{}"));
    assert!(
        !client
            .login_check(&server.host(), &password())
            .await
            .unwrap()
            .needed
    );
}

#[tokio::test]
async fn a_password_is_not_posted_elsewhere() {
    let other = Server::new(|_| Reply::json(200, r#"{"token":"t1"}"#));
    let to = format!("http://{}/token", other.host());
    let (_tokens, realm) = token_server(move |_| Reply::redirect(&to));
    let server = registry(realm, "t1");
    let identity = Credentials::IdentityToken(Secret::new("s3cret"));
    let client = with(config(), &server.host(), identity);
    let e = client.resolve(&app(&server.host())).await.unwrap_err();
    good_error(&e, "of a POST to another host");
    assert!(other.seen().is_empty());
    // With a password in a header, it is followed without it.
    let client = with_password(config(), &server.host());
    client.resolve(&app(&server.host())).await.unwrap();
    assert!(!other.seen()[0].headers.contains_key("authorization"));
}
