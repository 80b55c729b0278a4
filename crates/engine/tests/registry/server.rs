//! A small HTTP/1.1 server on threads that does what a test tells it, and remembers what it saw.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use unlade_unpack::{Algorithm, Digest};

/// A request that came in.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Which request it is, counted from 0.
    pub number: usize,
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v)
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    pub fn query(&self, name: &str) -> Option<String> {
        let url = reqwest::Url::parse(&format!("http://x{}", self.target)).unwrap();
        let found = url.query_pairs().find(|(n, _)| n == name);
        found.map(|(_, v)| v.into_owned())
    }
}

/// What to answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Says so, rather than the body's length.
    pub length: Option<usize>,
    pub chunked: bool,
    /// Hangs up after so many bytes of the body.
    pub cut: Option<usize>,
    /// With a reset.
    pub reset: bool,
    /// Sends nothing more after so many bytes of the body.
    pub stall: Option<usize>,
    /// Sends the body byte by byte.
    pub trickle: Option<Duration>,
    /// Sends the head byte by byte.
    pub slow_head: Option<Duration>,
    /// Repeats the body until nobody listens.
    pub endless: bool,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            length: None,
            chunked: false,
            cut: None,
            reset: false,
            stall: None,
            trickle: None,
            slow_head: None,
            endless: false,
        }
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn json(status: u16, body: &str) -> Self {
        Self::new(status)
            .with("content-type", "application/json")
            .body(body)
    }

    pub fn redirect(to: impl ToString) -> Self {
        Self::new(307).with("location", to)
    }
}

type Handler = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

pub struct Server {
    pub addr: SocketAddr,
    log: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.addr);
    }
}

impl Server {
    pub fn new(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(None, Arc::new(handler))
    }

    pub fn tls(
        config: rustls::ServerConfig,
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start(Some(Arc::new(config)), Arc::new(handler))
    }

    fn start(tls: Option<Arc<rustls::ServerConfig>>, handler: Handler) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            addr: listener.local_addr().unwrap(),
            log: Arc::default(),
            stop: Arc::default(),
        };
        let (log, stop) = (server.log.clone(), server.stop.clone());
        let count = Arc::new(AtomicUsize::new(0));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let (log, handler, count, tls) =
                    (log.clone(), handler.clone(), count.clone(), tls.clone());
                thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    let raw = stream.try_clone().unwrap();
                    let _ = match tls {
                        None => connection(stream, &raw, &log, &handler, &count),
                        Some(_) if !speaks_tls(&raw) => plain_on_tls(&raw),
                        Some(tls) => {
                            let session = rustls::ServerConnection::new(tls).unwrap();
                            let stream = rustls::StreamOwned::new(session, stream);
                            connection(stream, &raw, &log, &handler, &count)
                        }
                    };
                    let _ = raw.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        server
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.log.lock().unwrap().clone()
    }

    /// `GET /path` of every request, in order.
    pub fn lines(&self) -> Vec<String> {
        let line = |s: &Seen| format!("{} {}", s.method, s.path());
        self.seen().iter().map(line).collect()
    }
}

fn speaks_tls(raw: &TcpStream) -> bool {
    let mut first = [0];
    raw.peek(&mut first).is_ok() && first == [0x16]
}

fn plain_on_tls(mut raw: &TcpStream) -> io::Result<()> {
    let _ = raw.read(&mut [0; 4096])?;
    raw.write_all(
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
    )
}

fn connection<S: Read + Write>(
    stream: S,
    raw: &TcpStream,
    log: &Mutex<Vec<Seen>>,
    handler: &Handler,
    count: &AtomicUsize,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Ok(());
        };
        let (method, target) = (method.to_owned(), target.to_owned());
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let mut body = Vec::new();
        let length = headers.get("content-length").and_then(|l| l.parse().ok());
        stream
            .by_ref()
            .take(length.unwrap_or(0))
            .read_to_end(&mut body)?;
        let seen = Seen {
            number: count.fetch_add(1, Ordering::SeqCst),
            method,
            target,
            headers,
            body,
        };
        log.lock().unwrap().push(seen.clone());
        let reply = handler(&seen);
        if !answer(stream.get_mut(), raw, &seen, &reply)? {
            return Ok(());
        }
    }
}

/// Returns whether the connection goes on.
fn answer(out: &mut impl Write, raw: &TcpStream, seen: &Seen, reply: &Reply) -> io::Result<bool> {
    let mut head = format!("HTTP/1.1 {} x\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let length = reply.length.unwrap_or(reply.body.len());
    if reply.chunked || reply.endless && reply.length.is_none() {
        head += "transfer-encoding: chunked\r\n";
    } else if !reply.headers.iter().any(|(n, _)| n == "content-length") && reply.status != 204 {
        head += &format!("content-length: {length}\r\n");
    }
    head += "\r\n";
    match reply.slow_head {
        Some(pause) => {
            for byte in head.as_bytes() {
                out.write_all(&[*byte])?;
                out.flush()?;
                thread::sleep(pause);
            }
        }
        None => out.write_all(head.as_bytes())?,
    }
    if seen.method == "HEAD" {
        out.flush()?;
        return Ok(true);
    }
    let mut write = |bytes: &[u8]| -> io::Result<()> {
        if reply.chunked || reply.endless && reply.length.is_none() {
            if !bytes.is_empty() {
                write!(out, "{:x}\r\n", bytes.len())?;
                out.write_all(bytes)?;
                out.write_all(b"\r\n")?;
            }
        } else {
            out.write_all(bytes)?;
        }
        out.flush()
    };
    if let Some(at) = reply.cut {
        write(&reply.body[..at.min(reply.body.len())])?;
        if reply.reset {
            // What was written is to arrive first.
            thread::sleep(Duration::from_millis(20));
            let linger = Some(Duration::ZERO);
            rustix::net::sockopt::set_socket_linger(raw, linger)?;
        }
        return Ok(false);
    }
    if let Some(at) = reply.stall {
        write(&reply.body[..at])?;
        // Until the other end hangs up.
        raw.set_read_timeout(Some(Duration::from_secs(20)))?;
        let _ = (&*raw).read(&mut [0]);
        return Ok(false);
    }
    if let Some(pause) = reply.trickle {
        for byte in &reply.body {
            write(&[*byte])?;
            thread::sleep(pause);
        }
    } else if reply.endless {
        loop {
            write(&reply.body)?;
        }
    } else {
        write(&reply.body)?;
    }
    if reply.chunked {
        out.write_all(b"0\r\n\r\n")?;
    }
    out.flush()?;
    Ok(length == reply.body.len())
}

/// Bytes that tell where they stand.
pub fn blob(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

pub fn sha(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

/// Answers for a blob as a good server does, ranges and all.
pub fn serve(bytes: &[u8], seen: &Seen) -> Reply {
    let etag = format!("\"{}\"", sha(&bytes[..bytes.len().min(64)]).hex());
    let reply = |status| {
        Reply::new(status)
            .with("accept-ranges", "bytes")
            .with("etag", &etag)
    };
    let range = seen.header("range").strip_prefix("bytes=");
    let valid = seen.header("if-range").is_empty() || seen.header("if-range") == etag;
    match range.and_then(|r| r.split_once('-')).filter(|_| valid) {
        Some((first, last)) => {
            let first: usize = first.parse().unwrap();
            let last = last.parse().unwrap_or(usize::MAX).min(bytes.len() - 1);
            if first > last {
                return reply(416).with("content-range", format!("bytes */{}", bytes.len()));
            }
            let range = format!("bytes {first}-{last}/{}", bytes.len());
            reply(206)
                .with("content-range", range)
                .body(&bytes[first..=last])
        }
        None => reply(200).body(bytes),
    }
}

pub const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[]}"#;

pub fn manifest() -> Reply {
    Reply::new(200)
        .with("content-type", "application/vnd.oci.image.manifest.v1+json")
        .with("docker-content-digest", sha(MANIFEST.as_bytes()))
        .body(MANIFEST)
}
