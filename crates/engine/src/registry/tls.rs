//! Who is believed to be the registry: rustls with ring, TLS 1.2 and 1.3.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};

use crate::error::{Error, Kind, Result};

/// Largest certificate or key file, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// What one host is identified by, and identifies us by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct TlsFiles {
    /// Authorities to trust besides the machine's.
    pub(super) ca: Vec<PathBuf>,
    /// Certificate and key, or one file with both.
    pub(super) client: Vec<(PathBuf, Option<PathBuf>)>,
    /// Believe anybody.
    pub(super) skip_verify: bool,
}

impl TlsFiles {
    /// Adds what Docker's `certs.d` directories hold for `host` (with port).
    pub(super) fn add_docker_dirs(&mut self, dirs: &[PathBuf], host: &str) {
        for dir in dirs {
            self.add_docker_dir(&dir.join(host));
        }
    }

    pub(super) fn add_docker_dir(&mut self, dir: &Path) {
        let Ok(entries) = fs::read_dir(dir) else {
            return;
        };
        let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        files.sort();
        let is = |p: &Path, ext: &str| p.extension().is_some_and(|e| e == ext);
        self.ca
            .extend(files.iter().filter(|p| is(p, "crt")).cloned());
        for cert in files.iter().filter(|p| is(p, "cert")) {
            self.client
                .push((cert.clone(), Some(cert.with_extension("key"))));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ca.is_empty() && self.client.is_empty()
    }
}

/// The one place that chooses who does the cryptography.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| Arc::new(rustls::crypto::ring::default_provider()))
        .clone()
}

/// The machine's trusted certificates, read once.
fn system_roots() -> &'static [CertificateDer<'static>] {
    static ROOTS: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for e in &found.errors {
            tracing::debug!(error = %e, "a trusted certificate cannot be read");
        }
        found.certs
    })
}

/// For plain HTTP: nobody is believed.
pub(super) fn nobody() -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(bug)?;
    Ok(builder
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
}

fn bug(e: rustls::Error) -> Error {
    Error::new(Kind::Bug, format!("TLS cannot be set up: {e}"))
}

/// The configuration for a host with `files`.
pub(super) fn config(files: &TlsFiles, with_system_roots: bool) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(bug)?;
    let mut pinned = Vec::new();
    for path in &files.ca {
        let found = CertificateDer::pem_slice_iter(&read(path)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| unusable(path, e))?;
        if found.is_empty() {
            return Err(unusable(path, "no certificate in it"));
        }
        pinned.extend(found);
    }
    let verifier: Arc<dyn ServerCertVerifier> = if files.skip_verify {
        Arc::new(Anybody)
    } else {
        let mut roots = RootCertStore::empty();
        if with_system_roots {
            roots.add_parsable_certificates(system_roots().iter().cloned());
        }
        roots.add_parsable_certificates(pinned.iter().cloned());
        if roots.is_empty() {
            return nobody();
        }
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|e| Error::new(Kind::Bug, format!("TLS cannot be set up: {e}")))?;
        Arc::new(OrPinned { inner, pinned })
    };
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some((cert, key)) = files.client.first() else {
        return Ok(builder.with_no_client_auth());
    };
    let certs = CertificateDer::pem_slice_iter(&read(cert)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| unusable(cert, e))?;
    let key_path = key.as_ref().unwrap_or(cert);
    let key = PrivateKeyDer::from_pem_slice(&read(key_path)?).map_err(|e| unusable(key_path, e))?;
    builder
        .with_client_auth_cert(certs, key)
        .map_err(|e| unusable(cert, e))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let doing = || format!("read {}", path.display());
    let size = fs::metadata(path)
        .map_err(|e| Error::host(doing(), e))?
        .len();
    if size > MAX_FILE {
        return Err(unusable(path, format!("{size} bytes are too many")));
    }
    fs::read(path).map_err(|e| Error::host(doing(), e))
}

fn unusable(path: &Path, why: impl std::fmt::Display) -> Error {
    let m = format!(
        "certificate or key {} cannot be used: {why}",
        path.display()
    );
    Error::new(Kind::BadInput, m).with_hint("put a PEM file there, or remove it")
}

/// For hosts that are configured as insecure.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// As usual, and also a certificate that is itself among those to trust: what `openssl req -x509`
/// makes is its own authority, which is not allowed to be a server as well.
#[derive(Debug)]
struct OrPinned {
    inner: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for OrPinned {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let failed = match self.inner.verify_server_cert(end, between, name, ocsp, now) {
            Ok(verified) => return Ok(verified),
            Err(e) => e,
        };
        let may_be = matches!(
            failed,
            rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::Other(_)
            )
        );
        if !may_be || !self.pinned.iter().any(|c| c.as_ref() == end.as_ref()) {
            return Err(failed);
        }
        verify_server_name(&ParsedCertificate::try_from(end)?, name)?;
        let now = Duration::from_secs(now.as_secs());
        match validity(end) {
            Some((from, _)) if now < from => Err(CertificateError::NotValidYet.into()),
            Some((_, to)) if now > to => Err(CertificateError::Expired.into()),
            Some(_) => Ok(ServerCertVerified::assertion()),
            None => Err(CertificateError::BadEncoding.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// From when and to when a certificate is valid, since 1970.
fn validity(der: &[u8]) -> Option<(Duration, Duration)> {
    let (_, certificate, _) = der_item(der)?;
    let (_, mut tbs, _) = der_item(certificate)?;
    if tbs.first() == Some(&0xa0) {
        tbs = der_item(tbs)?.2; // version
    }
    for _ in 0..3 {
        tbs = der_item(tbs)?.2; // serial number, algorithm, issuer
    }
    let (_, validity, _) = der_item(tbs)?;
    let (tag, from, rest) = der_item(validity)?;
    let from = der_time(tag, from)?;
    let (tag, to, _) = der_item(rest)?;
    Some((from, der_time(tag, to)?))
}

/// Tag, contents and what follows.
fn der_item(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = if length < 0x80 {
        (usize::from(length), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
        if digits.len() > 4 {
            return None;
        }
        let length = digits.iter().fold(0, |n, d| n << 8 | usize::from(*d));
        (length, rest)
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

fn der_time(tag: u8, text: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let full = match (tag, text.get(..2)?.parse::<u8>().ok()?) {
        (0x17, 0..50) => format!("20{text}"),
        (0x17, _) => format!("19{text}"),
        (0x18, _) => text.to_owned(),
        _ => return None,
    };
    let at = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", full).ok()?;
    let at = jiff::tz::TimeZone::UTC.to_timestamp(at).ok()?;
    Some(Duration::from_secs(u64::try_from(at.as_second()).ok()?))
}

/// Why a handshake failed, in words, with what to do about it.
pub(super) fn explain(e: &rustls::Error) -> (String, &'static str) {
    use CertificateError as C;
    let (what, hint) = match e {
        rustls::Error::InvalidCertificate(why) => match why {
            C::UnknownIssuer | C::BadSignature => (
                "the certificate is from an authority that is not trusted".to_owned(),
                "put the authority's certificate into /etc/docker/certs.d/HOST/ca.crt; are \
                 ca-certificates installed?",
            ),
            C::Other(_) => (
                "the certificate is its own authority, and not trusted".to_owned(),
                "put it into /etc/docker/certs.d/HOST/ca.crt",
            ),
            C::Expired | C::ExpiredContext { .. } => (
                "the certificate has expired".to_owned(),
                "check this machine's clock; if it is right, the registry needs a new certificate",
            ),
            C::NotValidYet | C::NotValidYetContext { .. } => (
                "the certificate is not valid yet".to_owned(),
                "check this machine's clock",
            ),
            C::NotValidForName | C::NotValidForNameContext { .. } => (
                "the certificate is for another name".to_owned(),
                "use the name that the certificate is for",
            ),
            other => (
                format!("the certificate is not good: {other:?}"),
                "ask whoever runs the registry",
            ),
        },
        rustls::Error::AlertReceived(alert) => (
            format!("the server ended the handshake: {alert:?}"),
            "it may want a client certificate, or only speak TLS older than 1.2",
        ),
        rustls::Error::InvalidMessage(_) => (
            "the server does not speak TLS here".to_owned(),
            "if it serves plain HTTP, list it under `insecure`",
        ),
        other => (
            other.to_string(),
            "the server needs TLS 1.2 or 1.3 with a usual cipher",
        ),
    };
    (what, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validity_of_a_certificate() {
        let mut params = rcgen::CertificateParams::new(vec!["x".into()]).unwrap();
        params.not_before = rcgen::date_time_ymd(1999, 1, 2);
        params.not_after = rcgen::date_time_ymd(2070, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap();
        let (from, to) = validity(der.der()).unwrap();
        assert_eq!(from.as_secs(), 915_235_200);
        assert_eq!(to.as_secs(), 3_155_760_000);
        for cut in 0..der.der().len() {
            let _ = validity(&der.der()[..cut]);
        }
    }

    #[test]
    fn dockers_directories() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("h.io:5000");
        fs::create_dir(&host).unwrap();
        for name in ["ca.crt", "a.cert", "a.key", "README"] {
            fs::write(host.join(name), "x").unwrap();
        }
        let mut files = TlsFiles::default();
        files.add_docker_dirs(&[dir.path().to_owned()], "other");
        assert!(files.is_empty());
        files.add_docker_dirs(&[dir.path().to_owned()], "h.io:5000");
        assert_eq!(files.ca, [host.join("ca.crt")]);
        assert_eq!(
            files.client,
            [(host.join("a.cert"), Some(host.join("a.key")))]
        );
        let e = config(&files, false).unwrap_err();
        assert!(e.message().contains("ca.crt"), "{e}");
    }
}
