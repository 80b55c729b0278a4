//! Image documents.

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A byte for the kind, then the document.
pub fn all() -> Vec<Vec<u8>> {
    let descriptor = |media_type: &str, more: &str| {
        format!(r#"{{"mediaType":"{media_type}","digest":"{DIGEST}","size":2{more}}}"#)
    };
    let oci = |what: &str| format!("application/vnd.oci.image.{what}");
    let docker = |what: &str| format!("application/vnd.docker.{what}+json");
    let mut all: Vec<(u8, String)> = Vec::new();
    for (manifest, config, layer) in [
        (
            oci("manifest.v1+json"),
            oci("config.v1+json"),
            oci("layer.v1.tar+zstd"),
        ),
        (
            docker("distribution.manifest.v2"),
            docker("container.image.v1"),
            "application/vnd.docker.image.rootfs.diff.tar.gzip".to_owned(),
        ),
    ] {
        let (config, layer) = (
            descriptor(&config, ""),
            descriptor(&layer, r#","urls":["x"]"#),
        );
        all.push((0, format!(
            r#"{{"schemaVersion":2,"mediaType":"{manifest}","config":{config},"layers":[{layer},{layer}],"annotations":{{"a":"b"}}}}"#
        )));
        all.push((
            0,
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#),
        ));
    }
    let platform = r#","platform":{"os":"linux","architecture":"arm64","variant":"v8"},
        "annotations":{"org.opencontainers.image.ref.name":"x","Layers":"y"}"#;
    for (index, manifest) in [
        (oci("index.v1+json"), oci("manifest.v1+json")),
        (
            docker("distribution.manifest.list.v2"),
            docker("distribution.manifest.v2"),
        ),
    ] {
        let manifest = descriptor(&manifest, platform);
        all.push((
            0,
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{index}","manifests":[{manifest},{manifest}]}}"#
            ),
        ));
        all.push((
            0,
            format!(r#"{{"schemaVersion":2,"manifests":[{manifest}],"x":{{"y":[1,2.5,null]}}}}"#),
        ));
    }
    all.push((2, format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["A=b"],"Labels":{{"OS":"x"}}}},
            "rootfs":{{"type":"layers","diff_ids":["{DIGEST}","{DIGEST}"]}},"history":[{{"empty_layer":true}}]}}"#
    )));
    all.push((
        2,
        r#"{"rootfs":{"type":"layers","diff_ids":null}}"#.to_owned(),
    ));
    all.push((2, format!(
        r#"{{"architecture":"arm64","variant":"v8","os":"linux","os.version":"1","created":"2024-01-02T03:04:05Z",
            "author":"a","comment":"c","docker_version":"1","config":{{"User":"u","ExposedPorts":{{"80/tcp":{{}}}},
            "Env":["A=b"],"Entrypoint":["/e"],"Cmd":"x","Volumes":{{"/v":{{}}}},"WorkingDir":"/w","Labels":{{"a":"b"}},
            "StopSignal":"9","Healthcheck":{{"Test":["CMD","t"],"Interval":5,"Retries":null}},"Shell":["/s"],
            "OnBuild":["RUN x"],"ArgsEscaped":true}},"rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}},
            "history":[{{"created":"x","created_by":"y","author":"a","comment":"c","empty_layer":true}}]}}"#
    )));
    for change in [
        "CMD [\"a\", \"b\"]",
        "ENTRYPOINT run it",
        "ENV A=1 B=\"x y\" C=${A:-d}$B",
        "LABEL a=b 'c d'=e",
        "EXPOSE 80 53/udp 9000-9003",
        "HEALTHCHECK --interval=1m30s --retries=3 CMD curl",
        "ONBUILD RUN x\nUSER u:g\nWORKDIR a/../b\nVOLUME /v\nSTOPSIGNAL SIGRTMIN+3",
        "1h30m",
        "2024-01-02T03:04:05.6+01:30",
    ] {
        all.push((3, change.to_owned()));
    }
    // Refused, but not by much.
    for (key, value) in [
        ("Layers", "[]"),
        ("fsLayers", "[]"),
        ("Config", "{}"),
        ("manifests", "[]"),
    ] {
        let config = descriptor(&oci("config.v1+json"), "");
        all.push((
            0,
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"{key}":{value}}}"#),
        ));
    }
    all.push((
        2,
        r#"{"os":"linux","OS":"x","rootfs":{"type":"layers"}}"#.to_owned(),
    ));
    for words in ["linux/arm64/v8", "linux/amd64/v3", "Linux/x86_64", DIGEST] {
        all.push((3, words.to_owned()));
    }
    for what in [
        "layer.v1.tar+gzip",
        "layer.nondistributable.v1.tar",
        "config.v1+json",
    ] {
        all.push((3, oci(what)));
    }
    all.into_iter()
        .map(|(kind, text)| [&[kind], text.as_bytes()].concat())
        .collect()
}
