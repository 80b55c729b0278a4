//! What docker prints for the same templates: the table was written by
//! `docker image inspect --format` of docker 28.2.2, asked about the document below.

use serde_json::json;

use super::{Template, Value, value::Kind};

/// The document, with maps where docker has maps and structures elsewhere.
fn data() -> Value {
    let a1 = format!("sha256:{}", "a1".repeat(32));
    let b2 = format!("sha256:{}", "b2".repeat(32));
    let c3 = format!("sha256:{}", "c3".repeat(32));
    let doc = json!({
        "Id": a1, "RepoTags": ["alpine:latest", "x/y:1"], "RepoDigests": [format!("alpine@{c3}")],
        "Parent": "", "Comment": "buildkit <x>", "Created": "2023-11-14T22:13:20.123456789Z",
        "DockerVersion": "", "Author": "me & you",
        "Config": {
            "User": "app", "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
            "Env": ["PATH=/bin:/usr/bin", "A=<b>"], "Cmd": ["/bin/sh", "-c", "echo hi"],
            "Volumes": null, "WorkingDir": "/w", "Entrypoint": null, "OnBuild": null,
            "Labels": {"b": "2", "a.b/c": "x y", "z": ""}, "StopSignal": "SIGTERM",
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 30_000_000_000_i64},
        },
        "Architecture": "amd64", "Os": "linux", "Size": 5_530_000,
        "GraphDriver": {"Data": {"MergedDir": "/m", "UpperDir": "/u"}, "Name": "overlay2"},
        "RootFS": {"Type": "layers", "Layers": [b2, c3]},
    });
    let mut value = typed("", &doc);
    if let Value::Object(o) = &value {
        let mut fields = o.fields.clone();
        fields.push(("Variant".into(), Value::Empty));
        value = Value::object(Kind::Struct, fields);
    }
    value
}

fn typed(name: &str, value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null if name == "Volumes" => Value::NilMap,
        serde_json::Value::Null => Value::NilList,
        serde_json::Value::Array(all) => Value::List(all.iter().map(|v| typed("", v)).collect()),
        serde_json::Value::Object(fields) => {
            let kind = match name {
                "Labels" | "ExposedPorts" | "Data" => Kind::Map,
                _ => Kind::Struct,
            };
            // serde_json sorts; docker has these in another order.
            let mut fields: Vec<_> = fields
                .iter()
                .map(|(k, v)| (k.as_str().into(), typed(k, v)))
                .collect();
            if name == "RootFS" {
                fields.reverse();
            }
            Value::object(kind, fields)
        }
        other => Value::from(other.clone()),
    }
}

fn run(template: &str) -> Result<String, String> {
    let start = "template parsing error: template: :";
    let done = Template::parse(template).and_then(|t| t.render_value(&data()));
    done.map_err(|e| {
        assert!(e.hint().is_some(), "{e}");
        e.message()
            .strip_prefix(start)
            .unwrap_or(e.message())
            .to_owned()
    })
}

#[test]
fn as_docker() {
    let mut wrong = Vec::new();
    for (template, want) in DOCKER {
        let got = run(template);
        if got.as_ref().map(|s| &**s).map_err(|s| &**s) != *want {
            wrong.push(format!("{template}\n  docker {want:?}\n  unlade {got:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        DOCKER.len(),
        wrong.join("\n")
    );
}

/// Messages in which Go's type names would show.
#[test]
fn own_words() {
    for (template, part) in [
        ("{{.Os.Foo}}", "can't evaluate field Foo in type string"),
        (
            "{{.Config.Env.Foo}}",
            "can't evaluate field Foo in type []interface {}",
        ),
        ("{{template \"x\"}}", "{{template}} is not supported"),
        ("{{define \"x\"}}{{end}}", "{{define}} is not supported"),
        ("{{js 1}}", "function \"js\" not defined"),
        ("{{$x = 1}}", "undefined variable: $x"),
        (
            "{{join .Os \",\"}}",
            "wrong type for value; expected []string; got string",
        ),
        ("{{truncate \"abc\" -1}}", "error calling truncate"),
    ] {
        let e = run(template).unwrap_err();
        assert!(e.contains(part), "{template}: {e}");
    }
}

#[test]
fn messages_do_not_act_on_terminals() {
    for text in [
        "{{\"\u{1b}[31m\" 1}}",
        "{{`\u{1b}` | \u{1b}}}",
        "{{.\u{1b}}}",
        "{{index . `\u{1b}` 1}}",
    ] {
        let end = Template::parse(text).and_then(|t| t.render_value(&data()));
        let e = end.unwrap_err();
        assert!(!e.message().contains('\u{1b}'), "{e:?}");
    }
}

#[test]
fn integers_of_all_sizes() {
    let document = serde_json::json!({ "N": u64::MAX, "M": i64::MIN });
    let of_json = |t: &str| {
        let data = document.clone().into();
        Template::parse(t).unwrap().render_value(&data).unwrap()
    };
    let of_serde = |t: &str| Template::parse(t).unwrap().render(&document).unwrap();
    for show in [&of_json as &dyn Fn(&str) -> String, &of_serde] {
        assert_eq!(
            show("{{.N}} {{.M}}"),
            "18446744073709551615 -9223372036854775808"
        );
        let whole = r#"{"M":-9223372036854775808,"N":18446744073709551615}"#;
        assert_eq!(show("{{json .}}"), whole);
        assert_eq!(
            show(r#"{{printf "%22d|%v" .N .N}}"#),
            "  18446744073709551615|18446744073709551615"
        );
        assert_eq!(
            show("{{gt .N .M}} {{lt .N 1}} {{eq .N .N}} {{eq .N 1}}"),
            "true false true false"
        );
    }
}

#[test]
fn anything_that_serde_can_write() {
    #[derive(serde::Serialize)]
    struct Row {
        a: Option<u8>,
        #[serde(skip_serializing_if = "Option::is_none")]
        b: Option<&'static str>,
        c: std::collections::BTreeMap<&'static str, f32>,
        d: (i8, char),
    }
    let row = Row {
        a: None,
        b: None,
        c: [("k", 0.5)].into(),
        d: (-1, 'x'),
    };
    let show = |t: &str| Template::parse(t).unwrap().render(&row).unwrap();
    assert_eq!(
        show("{{.a}} [{{.b}}] {{.c}} {{.d}} {{.c.none}}"),
        "<no value> [] map[k:0.5] [-1 x] <no value>"
    );
    assert_eq!(
        show("{{json .}}"),
        r#"{"a":null,"c":{"k":0.5},"d":[-1,"x"]}"#
    );
    let document = Value::from(json!({"a": {"b": 1}}));
    let t = Template::parse("{{.a.c}}").unwrap();
    let e = t.render_value(&document).unwrap_err();
    assert!(
        e.message().ends_with("map has no entry for key \"c\""),
        "{e}"
    );
    assert_eq!(e.hint(), Some("there are: b"));
}

/// What docker 28.2.2 said of `ps --format`.
#[test]
fn rows_with_labels() {
    let labels = [("com.x.my-key", "v1"), ("b", "2")];
    let labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let row = Value::row(
        "container",
        vec![
            ("ID", Value::text("aa")),
            ("Label", Value::labels(&labels)),
            ("Platform", Value::platform("linux/arm/v7")),
        ],
    );
    let show = |text: &str| -> Result<String, String> {
        let done = Template::parse(text).and_then(|t| t.render_value(&row));
        done.map_err(|e| e.message().to_owned())
    };
    for (template, want) in [
        (r#"{{.Label "com.x.my-key"}}|{{.Label "none"}}"#, "v1|"),
        (r#"{{"b" | .Label}}{{$.Label "b"}}{{(.).Label "b"}}"#, "222"),
        (r#"{{upper (.Label "com.x.my-key") | printf "%s!"}}"#, "V1!"),
        (
            r#"{{if .Label "b"}}b{{end}}{{with .Label "c"}}c{{end}}"#,
            "b",
        ),
        ("{{.Platform}}", "linux/arm/v7"),
        (
            "{{json .}}",
            r#"{"ID":"aa","Platform":{"architecture":"arm","os":"linux","variant":"v7"}}"#,
        ),
    ] {
        assert_eq!(show(template).as_deref(), Ok(want), "{template}");
    }
    for (template, want) in [
        ("{{.Label}}", "wrong number of args for Label: want 1 got 0"),
        ("{{.Label 3}}", "expected string; found 3"),
        (
            r#"{{.Label "b" "c"}}"#,
            "wrong number of args for Label: want 1 got 2",
        ),
        (
            r#"{{.ID "b"}}"#,
            "wrong number of args for ID: want 0 got 1",
        ),
    ] {
        let e = show(template).unwrap_err();
        assert!(e.ends_with(&format!(">: {want}")), "{template}: {e}");
    }
    let table = Template::parse("{{.ID}}\t{{upper (.Label \"com.x.my-key\")}}").unwrap();
    let header = table.render_header(&[("ID", "CONTAINER ID")]).unwrap();
    assert_eq!(header, "CONTAINER ID\tmy key");
}

#[test]
fn fields_by_the_names_of_json_and_go() {
    let row = json!({"id": "aa", "timeNano": 7, "Id": 1});
    let Value::Object(o) = Value::from(row) else {
        unreachable!()
    };
    let data = Value::object(Kind::Struct, o.fields.clone());
    let show = |text: &str| Template::parse(text).unwrap().render_value(&data);
    assert_eq!(
        show("{{.id}}{{.Id}}{{.TimeNano}}{{.timeNano}}").unwrap(),
        "aa177"
    );
    assert!(show("{{.timenano}}").is_err());
}

#[test]
fn bounded() {
    let deep = format!("{}1{}", "(".repeat(200), ")".repeat(200));
    let blocks = format!("{}{}", "{{if 1}}".repeat(200), "{{end}}".repeat(200));
    for (template, part) in [
        ("{{range 9000000000000000000}}{{end}}", "steps"),
        ("{{range 10000000}}0123456789{{end}}", "output"),
        (
            "{{pad \"x\" 9000000000000000000 9000000000000000000}}",
            "longer than",
        ),
        ("{{pad \"x\" 900000000 1}}", "longer than"),
        (&*format!("{{{{{deep}}}}}"), "nested more than"),
        (&*blocks, "nested more than"),
        (
            &*format!("{{{{printf \"{}\" 1}}}}", "%[1]999999d".repeat(100)),
            "longer than",
        ),
    ] {
        let e = run(template).unwrap_err();
        assert!(e.contains(part), "{template:.40}: {e:.200}");
    }
    assert!(Template::parse(&"x".repeat(2 << 20)).is_err());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2000))]

    #[test]
    fn never_panics(
        text in "(\\{\\{[- ]?|[ -]?\\}\\}|range |if |with |else|end|break|\\$x|:=|=|,|\\||\\.[A-Z][a-z]|\\.Config\\.Env|\\.Os|\"a\"|`b`|'c'|[-+]?[0-9]{1,3}|0x|1e9|printf \"%[-+# 0]?[0-9]?\\.?[a-zA-Z%]\" |index |slice |len |json |join |split |pad |truncate |eq |lt |and |not |\\(|\\)|/\\*|\\*/| |é|\\PC){0,25}",
    ) {
        if let Ok(template) = Template::parse(&text) {
            let _ = template.render_value(&data());
        }
    }
}

/// A template, and what docker printed, or its message after `template parsing error: template: :`.
#[rustfmt::skip]
const DOCKER: &[(&str, Result<&str, &str>)] = &[
    ("plain text", Ok("plain text")),
    ("{{.Id}}", Ok("sha256:a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1")),
    ("{{.Os}}/{{.Architecture}}", Ok("linux/amd64")),
    ("{{ .Os }}", Ok("linux")),
    ("{{.Config.User}}", Ok("app")),
    ("{{.Size}}", Ok("5530000")),
    ("{{.Config.Env}}", Ok("[PATH=/bin:/usr/bin A=<b>]")),
    ("{{.Config.ExposedPorts}}", Ok("map[53/udp:{} 80/tcp:{}]")),
    ("{{.Config.Labels}}", Ok("map[a.b/c:x y b:2 z:]")),
    ("{{.RootFS}}", Ok("{layers [sha256:b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2 sha256:c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3]}")),
    ("{{.RootFS.Layers}}", Ok("[sha256:b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2 sha256:c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3]")),
    ("{{.Config.Volumes}}", Ok("map[]")),
    ("{{.Config.Entrypoint}}", Ok("[]")),
    ("{{.Config.OnBuild}}", Ok("[]")),
    ("{{.GraphDriver}}", Ok("{map[MergedDir:/m UpperDir:/u] overlay2}")),
    ("{{.GraphDriver.Data.MergedDir}}", Ok("/m")),
    ("{{.Config.Labels.b}}", Ok("2")),
    ("{{.Config.Labels.nope}}", Ok("<no value>")),
    (r#"{{index .Config.Labels "a.b/c"}}"#, Ok("x y")),
    (r#"{{index .Config.Labels "nope"}}|"#, Ok("|")),
    ("{{index .Config.Env 1}}", Ok("A=<b>")),
    ("{{index .Config.Env 7}}", Err(r#"1:2: executing "" at <index .Config.Env 7>: error calling index: index out of range: 7"#)),
    (r#"{{index .Config.Env "x"}}"#, Err(r#"1:2: executing "" at <index .Config.Env "x">: error calling index: cannot index slice/array with type string"#)),
    ("{{index .RepoTags 0}}", Ok("alpine:latest")),
    ("{{(index .RepoTags 0)}}", Ok("alpine:latest")),
    ("{{.Foo}}", Err(r#"1:2: executing "" at <.Foo>: map has no entry for key "Foo""#)),
    ("{{.Config.Foo}}", Err(r#"1:9: executing "" at <.Config.Foo>: map has no entry for key "Foo""#)),
    ("{{.Variant}}|", Ok("|")),
    ("{{json .Config.Labels}}", Ok(r#"{"a.b/c":"x y","b":"2","z":""}"#)),
    ("{{json .Config.ExposedPorts}}", Ok(r#"{"53/udp":{},"80/tcp":{}}"#)),
    ("{{json .Comment}}", Ok(r#""buildkit <x>""#)),
    ("{{json .Config.Env}}", Ok(r#"["PATH=/bin:/usr/bin","A=<b>"]"#)),
    ("{{json .Size}}", Ok("5530000")),
    ("{{json .Config.Volumes}}", Ok("null")),
    ("{{json .RootFS}}", Ok(r#"{"Type":"layers","Layers":["sha256:b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2","sha256:c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3"]}"#)),
    ("{{.Id | json}}", Ok(r#""sha256:a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1""#)),
    ("{{.Config.Labels.nope | json}}", Ok("null")),
    (r#"{{join .Config.Env ","}}"#, Ok("PATH=/bin:/usr/bin,A=<b>")),
    (r#"{{join .RepoTags ", "}}"#, Ok("alpine:latest, x/y:1")),
    (r#"{{.RepoTags | join ","}}"#, Err(r#"1:19: executing "" at <",">: can't handle "," for arg of type []string"#)),
    ("{{range .Config.Env}}[{{.}}]{{end}}", Ok("[PATH=/bin:/usr/bin][A=<b>]")),
    ("{{range $v := .Config.Env}}<{{$v}}>{{end}}", Ok("<PATH=/bin:/usr/bin><A=<b>>")),
    ("{{range $i, $v := .Config.Env}}{{$i}}={{$v}};{{end}}", Ok("0=PATH=/bin:/usr/bin;1=A=<b>;")),
    ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", Ok("a.b/c=x y;b=2;z=;")),
    ("{{range .Config.Volumes}}x{{else}}none{{end}}", Ok("none")),
    ("{{range .Config.OnBuild}}x{{end}}", Ok("")),
    ("{{range .Config.Env}}{{.}}{{break}}{{end}}", Ok("PATH=/bin:/usr/bin")),
    ("{{range $i, $v := .Config.Env}}{{if eq $i 0}}{{continue}}{{end}}{{$v}}{{end}}", Ok("A=<b>")),
    ("{{range 3}}x{{end}}", Ok("xxx")),
    ("{{range $i := 3}}{{$i}}{{end}}", Ok("012")),
    ("{{range .Size}}{{break}}{{end}}", Ok("")),
    ("{{range .Id}}x{{end}}", Err(r#"1:8: executing "" at <.Id>: range can't iterate over sha256:a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1"#)),
    ("{{range $p, $c := .Config.ExposedPorts}}{{$p}} {{$c}} {{end}}", Ok("53/udp {} 80/tcp {} ")),
    ("{{if .Config.User}}yes{{end}}", Ok("yes")),
    ("{{if .DockerVersion}}yes{{else}}no{{end}}", Ok("no")),
    ("{{if .Config.Volumes}}a{{else if .Config.Entrypoint}}b{{else if .Config.Env}}c{{else}}d{{end}}", Ok("c")),
    ("{{if and .Id .Os}}both{{end}}", Ok("both")),
    (r#"{{if or .DockerVersion .Parent "x"}}any{{end}}"#, Ok("any")),
    (r#"{{or .DockerVersion .Parent "x"}}"#, Ok("x")),
    ("{{and .Id .Os}}", Ok("linux")),
    ("{{and}}", Err(r#"1:2: executing "" at <and>: wrong number of args for and: want at least 1 got 0"#)),
    ("{{not .Parent}}", Ok("true")),
    ("{{not true}}", Ok("false")),
    ("{{with .Config}}{{.User}}:{{.WorkingDir}}{{end}}", Ok("app:/w")),
    ("{{with .Parent}}x{{else}}orphan{{end}}", Ok("orphan")),
    ("{{with $c := .Config}}{{$c.User}} {{$.Os}}{{end}}", Ok("app linux")),
    ("{{with .Parent}}x{{else with .Os}}{{.}}{{end}}", Ok("linux")),
    (r#"{{$x := .Os}}{{$x}}{{$x = "win"}}{{$x}}"#, Ok("linuxwin")),
    ("{{$x}}", Err(r#"1: undefined variable "$x""#)),
    ("{{$c := .Config}}{{$c.Labels.b}}", Ok("2")),
    ("{{$.Os}}", Ok("linux")),
    (r#"{{upper .Os}} {{lower "ABC"}} {{title "hello world"}}"#, Ok("LINUX abc Hello World")),
    (r#"{{split .Id ":"}}"#, Ok("[sha256 a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1]")),
    (r#"{{index (split .Id ":") 0}}"#, Ok("sha256")),
    ("{{slice .Id 7 19}}", Ok("a1a1a1a1a1a1")),
    ("{{slice .Id 7}}", Ok("a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1")),
    ("{{slice .Config.Env 1}}", Ok("[A=<b>]")),
    ("{{slice .Id 5 2}}", Err(r#"1:2: executing "" at <slice .Id 5 2>: error calling slice: invalid slice index: 5 > 2"#)),
    ("{{slice .Id 0 999}}", Err(r#"1:2: executing "" at <slice .Id 0 999>: error calling slice: index out of range: 999"#)),
    ("{{truncate .Id 10}}", Ok("sha256:a1a")),
    (r#"{{truncate "ab" 10}}"#, Ok("ab")),
    ("{{pad .Os 2 3}}|", Ok("  linux   |")),
    (r#"{{pad "" 2 3}}|"#, Ok("|")),
    ("{{len .Config.Env}} {{len .Id}} {{len .Config.Labels}}", Ok("2 71 3")),
    ("{{len .Config.Volumes}}", Ok("0")),
    ("{{len 3}}", Err(r#"1:2: executing "" at <len 3>: error calling len: len of type int"#)),
    (r#"{{println "a" "b"}}"#, Ok("a b\n")),
    ("{{println .Os 1 true}}|", Ok("linux 1 true\n|")),
    (r#"{{print "a" "b" 1 2 true}}"#, Ok("ab1 2 true")),
    (r#"{{printf "%s-%d" .Os .Size}}"#, Ok("linux-5530000")),
    (r#"{{printf "%q %v %5s|%-5s|%05d|%x" .Os .Os "a" "b" 42 255}}"#, Ok(r#""linux" linux     a|b    |00042|ff"#)),
    (r#"{{printf "%.3s %t %T %c %U %e %.2f %g" .Os true .Os 65 65 1.5 3.14159 2.5}}"#, Ok("lin true string A U+0041 1.500000e+00 3.14 2.5")),
    (r#"{{printf "%d" .Os}}"#, Ok("%!d(string=linux)")),
    (r#"{{printf "%s"}}"#, Ok("%!s(MISSING)")),
    (r#"{{printf "%d %d" 1}}"#, Ok("1 %!d(MISSING)")),
    (r#"{{printf "x" 1}}"#, Ok("x%!(EXTRA int=1)")),
    (r#"{{printf "%v %v" .Config.Env .Config.Labels}}"#, Ok("[PATH=/bin:/usr/bin A=<b>] map[a.b/c:x y b:2 z:]")),
    (r#"{{printf "%+v|%#v" .Config.Env .Os}}"#, Ok(r#"[PATH=/bin:/usr/bin A=<b>]|"linux""#)),
    (r#"{{printf "100%%"}}"#, Ok("100%")),
    (r#"{{printf "%!"}}"#, Ok("%!!(MISSING)")),
    (r#"{{printf "%z" 1}}"#, Ok("%!z(int=1)")),
    (r#"{{printf "%*d" 5 42}}"#, Ok("   42")),
    (r#"{{printf "%[2]d %[1]d" 1 2}}"#, Ok("2 1")),
    (r#"{{printf "%+d % d %o %b %X %#x" 5 5 8 5 255 255}}"#, Ok("+5  5 10 101 FF 0xff")),
    (r#"{{printf "%x %X" "hi" "hi"}}"#, Ok("6869 6869")),
    (r#"{{printf "%6.2f|%-8.1f|" 3.14159 2.0}}"#, Ok("  3.14|2.0     |")),
    (r#"{{printf "%t" "x"}}"#, Ok("%!t(string=x)")),
    ("{{printf 3}}", Err(r#"1:9: executing "" at <3>: expected string; found 3"#)),
    (r#"{{eq .Os "linux"}} {{ne .Os "linux"}}"#, Ok("true false")),
    (r#"{{eq .Os "a" "b" "linux"}}"#, Ok("true")),
    ("{{eq 1 1.0}}", Err(r#"1:2: executing "" at <eq 1 1.0>: error calling eq: incompatible types for comparison"#)),
    ("{{eq .Size 5530000}}", Ok("true")),
    ("{{eq .Os 1}}", Err(r#"1:2: executing "" at <eq .Os 1>: error calling eq: incompatible types for comparison"#)),
    (r#"{{lt 1 2}} {{le 2 2}} {{gt "b" "a"}} {{ge 1.5 2.5}}"#, Ok("true true true false")),
    ("{{lt .Os 1}}", Err(r#"1:2: executing "" at <lt .Os 1>: error calling lt: incompatible types for comparison"#)),
    ("{{gt .Size 5000000}}", Ok("true")),
    ("{{eq true true}}", Ok("true")),
    ("{{eq .Os}}", Err(r#"1:2: executing "" at <eq .Os>: error calling eq: missing argument for comparison"#)),
    (r#"{{.Os | printf "%s-%s" "x"}}"#, Ok("x-linux")),
    (r#"{{"quoted" | upper | printf "%q"}}"#, Ok(r#""QUOTED""#)),
    (r#"{{ "a\tb\n\"c\"\u00e9\x41\101" }}"#, Ok("a\tb\n\"c\"éAA")),
    (r#"{{`raw\n`}}"#, Ok(r#"raw\n"#)),
    (r#"{{'a'}} {{'\n'}} {{'é'}}"#, Ok("97 10 233")),
    ("{{1}} {{-2}} {{+3}} {{0x1F}} {{0b101}} {{0o17}} {{017}} {{1_000}} {{1.5}} {{1e3}} {{.5}}", Ok("1 -2 3 31 5 15 15 1000 1.5 1000 0.5")),
    ("{{1e100}}", Ok("1e+100")),
    ("{{99999999999999999999}}", Err(r#"1: integer overflow: "99999999999999999999""#)),
    ("{{9223372036854775807}}", Ok("9223372036854775807")),
    ("{{true}} {{false}}", Ok("true false")),
    ("{{nil}}", Err(r#"1:2: executing "" at <nil>: nil is not a command"#)),
    ("{{/* comment */}}a", Ok("a")),
    ("{{- /* comment */ -}} a", Ok("a")),
    ("a {{- .Os -}} b", Ok("alinuxb")),
    ("a {{- .Os }} b", Ok("alinux b")),
    ("a {{ .Os -}}   b", Ok("a linuxb")),
    ("{{.Os -}}", Ok("linux")),
    ("{{-3}}", Ok("-3")),
    ("{{- 3}}", Ok("3")),
    ("{{(.Config).User}}", Ok("app")),
    ("{{(index .RepoTags 0) | upper}}", Ok("ALPINE:LATEST")),
    ("{{((.Os))}}", Ok("linux")),
    ("{{.Config.Healthcheck.Test}}", Ok("[CMD true]")),
    ("{{.Os", Err("1: unclosed action")),
    ("{{.Os}", Err("1: bad character U+007D '}'")),
    ("{{}}", Err("1: missing value for command")),
    ("{{end}}", Err("1: unexpected {{end}}")),
    ("{{if .Os}}", Err("1: unexpected EOF")),
    ("{{if}}x{{end}}", Err("1: missing value for if")),
    ("{{else}}", Err("1: unexpected {{else}}")),
    ("{{range}}{{end}}", Err("1: missing value for range")),
    ("{{foo}}", Err(r#"1: function "foo" not defined"#)),
    ("{{foo .Os}}", Err(r#"1: function "foo" not defined"#)),
    ("{{.Os foo}}", Err(r#"1: function "foo" not defined"#)),
    (r#"{{.Os "x"}}"#, Err(r#"1:2: executing "" at <.Os>: Os is not a method but has arguments"#)),
    (r#"{{"x" .Os}}"#, Err(r#"1:2: executing "" at <"x">: can't give argument to non-function "x""#)),
    ("{{1 2}}", Err(r#"1:2: executing "" at <1>: can't give argument to non-function 1"#)),
    ("{{join .Config.Env}}", Err(r#"1:2: executing "" at <join>: wrong number of args for join: want 2 got 1"#)),
    ("{{upper 1}}", Err(r#"1:8: executing "" at <1>: expected string; found 1"#)),
    ("{{upper}}", Err(r#"1:2: executing "" at <upper>: wrong number of args for upper: want 1 got 0"#)),
    ("{{upper .Os .Os}}", Err(r#"1:2: executing "" at <upper>: wrong number of args for upper: want 1 got 2"#)),
    ("{{json}}", Err(r#"1:2: executing "" at <json>: wrong number of args for json: want 1 got 0"#)),
    ("{{len}}", Err(r#"1:2: executing "" at <len>: wrong number of args for len: want 1 got 0"#)),
    ("{{index}}", Err(r#"1:2: executing "" at <index>: wrong number of args for index: want at least 1 got 0"#)),
    ("{{index .Config.Env}}", Ok("[PATH=/bin:/usr/bin A=<b>]")),
    ("{{index .Os 0}}", Ok("108")),
    ("{{index .Config.Labels 1}}", Err(r#"1:2: executing "" at <index .Config.Labels 1>: error calling index: value has type int; should be string"#)),
    ("{{index nil 1}}", Err(r#"1:2: executing "" at <index nil 1>: error calling index: index of untyped nil"#)),
    ("{{break}}", Err("1: {{break}} outside {{range}}")),
    ("{{continue}}", Err("1: {{continue}} outside {{range}}")),
    ("{{(}}", Err("1: unclosed left paren")),
    ("{{)}}", Err("1: unexpected right paren")),
    ("{{(1}}", Err("1: unclosed left paren")),
    (r#"{{"abc}}"#, Err("1: unterminated quoted string")),
    ("{{'abc'}}", Err("1: malformed character constant: 'abc'")),
    ("{{`abc}}", Err("1: unterminated raw quoted string")),
    ("{{| .Os}}", Err(r#"1: unexpected "|" in command"#)),
    ("{{.Os || .Id}}", Err(r#"1: unexpected "|" in command"#)),
    ("{{.Os.}}", Err("1: unexpected <.> in operand")),
    ("{{..}}", Err("1: unexpected <.> in operand")),
    ("{{@}}", Err(r#"1: unexpected "@" in command"#)),
    ("{{.Os,}}", Err(r#"1: unexpected "," in operand"#)),
    ("{{.Os := 1}}", Err(r#"1: unexpected ":=" in operand"#)),
    ("{{$x := 1}}{{$x}}", Ok("1")),
    ("{{$x := 1}}{{if true}}{{$x := 2}}{{$x}}{{end}}{{$x}}", Ok("21")),
    ("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", Ok("2")),
    ("{{/* unclosed", Err("1: unclosed comment")),
    ("{{/* bad */ x}}", Err("1: comment ends before closing delimiter")),
    ("{{1.2.3}}", Err(r#"1: unexpected ".3" in operand"#)),
    ("{{1a}}", Err(r#"1: bad number syntax: "1a""#)),
    ("{{.Os1}}", Err(r#"1:2: executing "" at <.Os1>: map has no entry for key "Os1""#)),
    ("{{.é}}", Err(r#"1:2: executing "" at <.é>: map has no entry for key "é""#)),
    ("{{nil | print}}", Err(r#"1:2: executing "" at <nil>: nil is not a command"#)),
    ("{{print nil}}", Ok("<nil>")),
    (r#"{{.Config.Labels | len | printf "%03d"}}"#, Ok("003")),
    (r#"{{if eq (index .Config.Labels "b") "2"}}two{{end}}"#, Ok("two")),
    ("{{range $i, $e := .RepoTags}}{{if $i}}, {{end}}{{$e}}{{end}}", Ok("alpine:latest, x/y:1")),
    ("{{range .RepoTags}}{{println .}}{{end}}", Ok("alpine:latest\nx/y:1\n")),
    ("{{range .RootFS.Layers}}{{slice . 7 15}} {{end}}", Ok("b2b2b2b2 c3c3c3c3 ")),
    ("line1", Ok("line1")),
    ("{{.Os}}", Ok("linux")),
    (r#"{{"a"}}{{"b"}}"#, Ok("ab")),
    ("{{{.Os}}}", Err(r#"1: unexpected "{" in command"#)),
    ("{{.Os}}}}", Ok("linux}}")),
    (r#"{{printf "%s" (join .RepoTags "+")}}"#, Ok("alpine:latest+x/y:1")),
    ("{{with index .RepoTags 1}}{{.}}{{end}}", Ok("x/y:1")),
    (r#"{{printf "%v" 1.0}} {{1.0}} {{printf "%v" 1e21}} {{1e20}} {{1e21}} {{1e-7}}"#, Ok("1 1 1e+21 1e+20 1e+21 1e-07")),
    (r#"{{printf "%6d|%-6d|%06d" 42 42 -42}}"#, Ok("    42|42    |-00042")),
    (r#"{{printf "%s" nil}}"#, Ok("%!s(<nil>)")),
    (r#"{{printf "%v %d" true false}}"#, Ok("true %!d(bool=false)")),
    (r#"{{printf "%s" .Config.Env}}"#, Ok("[PATH=/bin:/usr/bin A=<b>]")),
    (r#"{{printf "%q" .Config.Env}}"#, Ok(r#"["PATH=/bin:/usr/bin" "A=<b>"]"#)),
    (r#"{{printf "%10.3v|" "abcdef"}}"#, Ok("       abc|")),
    (r#"{{printf "%q" 65}} {{printf "%c" 9731}} {{printf "%#q" "a"}}"#, Ok("'A' ☃ `a`")),
    ("{{not}}", Err(r#"1:2: executing "" at <not>: wrong number of args for not: want 1 got 0"#)),
    ("{{or}}", Err(r#"1:2: executing "" at <or>: wrong number of args for or: want at least 1 got 0"#)),
    ("{{eq}}", Err(r#"1:2: executing "" at <eq>: wrong number of args for eq: want at least 1 got 0"#)),
    ("{{slice .Id}}", Ok("sha256:a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1")),
    ("{{json . | len | lt 100}}", Ok("true")),
    ("{{.Id | slice 1}}", Err(r#"1:8: executing "" at <slice 1>: error calling slice: can't slice item of type int"#)),
    (r#"{{title .Os}} {{title "a-b c_d"}}"#, Ok("Linux A-B C_d")),
    ("{{.RepoTags | json | upper}}", Ok(r#"["ALPINE:LATEST","X/Y:1"]"#)),
    ("{{range .Config.Env}}\n  {{.}}\n{{- end}}\n", Ok("\n  PATH=/bin:/usr/bin\n  A=<b>\n")),
    ("a\n{{.Foo}}", Err(r#"2:2: executing "" at <.Foo>: map has no entry for key "Foo""#)),
    ("a\n{{if", Err("2: unclosed action")),
    ("{{.Os\n}}", Ok("linux")),
    ("{{`a\nb`}}", Ok("a\nb")),
    (r#"x\ty"#, Ok(r#"x\ty"#)),
    ("{{123456.0}} {{1234567.0}} {{123456789.5}} {{0.0001}} {{0.00001}}", Ok("123456 1.234567e+06 1.234567895e+08 0.0001 1e-05")),
    (r#"{{printf "%g %.3g %.10g %e" 1e6 123456.0 1e6 0.0}}"#, Ok("1e+06 1.23e+05 1000000 0.000000e+00")),
    (r#"{{printf "%05.1f|%+.2e|%G" -2.5 12345.678 1e-10}}"#, Ok("-02.5|+1.23e+04|1E-10")),
    (r#"{{printf "%q" "tab\t\x00é"}}"#, Ok(r#""tab\t\x00é""#)),
    (r#"{{printf "%x|% x|%#x" "hello" "hello" "hello"}}"#, Ok("68656c6c6f|68 65 6c 6c 6f|0x68656c6c6f")),
    (r#"{{printf "%-10q|%10s|%-10s|" "a" "é" "b"}}"#, Ok(r#""a"       |         é|b         |"#)),
    (r#"{{printf "%3c|%-3c|" 65 66}}"#, Ok("  A|B  |")),
    (r#"{{printf "%08.3d|%+05d|%.0d" 7 7 0}}"#, Ok("     007|+0007|")),
    (r#"{{printf "%[5]d" 1}}"#, Ok("%!d(BADINDEX)")),
    (r#"{{printf "%"}}"#, Ok("%!(NOVERB)")),
    ("{{$a, $b := 1}}", Err("1: too many declarations in command")),
    ("{{range $a, $b, $c := .RepoTags}}{{end}}", Err("1: too many declarations in range")),
    ("{{range $a, .RepoTags}}{{end}}", Err("1: range can only initialize variables")),
    ("{{range .RepoTags}}{{else}}{{else}}{{end}}", Err("1: expected end; found {{else}}")),
    ("{{if true}}a{{else}}b{{else}}c{{end}}", Err("1: expected end; found {{else}}")),
    ("{{end .}}", Err("1: unexpected <.> in end")),
    ("{{1 | upper}}", Err(r#"1:6: executing "" at <upper>: wrong type for value; expected string; got int"#)),
    (r#"{{"a" | 1}}"#, Err("1: non executable command in pipeline stage 2")),
    ("{{.Os | .Id}}", Err(r#"1:8: executing "" at <.Id>: Id is not a method but has arguments"#)),
    (r#"{{"x".Foo}}"#, Err(r#"1: unexpected . after term "\"x\"""#)),
    (r#"{{"\q"}}"#, Err("1: invalid syntax")),
    (r#"{{"\400"}}"#, Err("1: invalid syntax")),
    ("{{.Os:}}", Err("1: expected :=")),
    ("{{é}}", Err(r#"1: function "é" not defined"#)),
    ("{{.Os€}}", Err("1: bad character U+20AC '€'")),
    ("{{€}}", Err("1: unrecognized character in action: U+20AC '€'")),
    ("{{$x:=1}}{{$x.Foo}}", Err(r#"1:13: executing "" at <$x.Foo>: can't evaluate field Foo in type int"#)),
    ("{{index .RepoTags 0 1}}", Ok("108")),
    ("{{eq 1 2 3 1}}", Ok("true")),
    ("{{lt 1 1.5}}", Err(r#"1:2: executing "" at <lt 1 1.5>: error calling lt: incompatible types for comparison"#)),
    ("{{ne 1}}", Err(r#"1:2: executing "" at <ne>: wrong number of args for ne: want 2 got 1"#)),
    ("{{eq nil nil}}", Ok("true")),
    ("{{eq .Config.Labels.nope nil}}", Ok("true")),
    (r#"{{join (split "a,b" ",") "-"}}"#, Ok("a-b")),
    (r#"{{truncate "abc" 0}}"#, Ok("")),
    (r#"{{pad "x" -1 2}}"#, Err(r#"1:2: executing "" at <pad "x" -1 2>: error calling pad: strings: negative Repeat count"#)),
    (r#"{{title "éa"}}"#, Ok("Éa")),
    ("{{slice .RepoTags 0 1}} {{slice .RepoTags 2}}", Ok("[alpine:latest] []")),
    (r#"{{slice "abc" 1 2 3}}"#, Err(r#"1:2: executing "" at <slice "abc" 1 2 3>: error calling slice: cannot 3-index slice a string"#)),
    ("{{slice .RepoTags 0 1 2}}", Ok("[alpine:latest]")),
    ("{{slice nil}}", Err(r#"1:2: executing "" at <slice nil>: error calling slice: slice of untyped nil"#)),
    ("{{index .RepoTags nil}}", Err(r#"1:2: executing "" at <index .RepoTags nil>: error calling index: cannot index slice/array with nil"#)),
    ("{{index .RepoTags -1}}", Err(r#"1:2: executing "" at <index .RepoTags -1>: error calling index: index out of range: -1"#)),
    ("{{.Size | println}}", Ok("5530000\n")),
    (r#"{{print .RepoTags "x" 1 2}}"#, Ok("[alpine:latest x/y:1]x1 2")),
    ("{{print}}|{{println}}", Ok("|\n")),
    (r#"{{urlquery "é/?"}}"#, Ok("%C3%A9%2F%3F")),
    (r#"{{not 0}} {{not ""}}"#, Ok("true true")),
    ("{{upper .RepoTags}}", Err(r#"1:8: executing "" at <.RepoTags>: wrong type for value; expected string; got []interface {}"#)),
    ("{{truncate .Os .Os}}", Err(r#"1:15: executing "" at <.Os>: wrong type for value; expected int; got string"#)),
    ("{{json (index .RepoTags 0)}}{{json 1.5}}{{json true}}{{json nil}}", Ok(r#""alpine:latest"1.5truenull"#)),
    ("{{with $x := .Os}}{{$x}}{{end}}{{$x}}", Err(r#"1: undefined variable "$x""#)),
    ("{{if $x := .Os}}{{$x}}{{else}}{{$x}}{{end}}", Ok("linux")),
    ("{{range $i, $e := .RepoTags}}{{end}}{{$i}}", Err(r#"1: undefined variable "$i""#)),
    ("{{range -1}}x{{else}}e{{end}}", Ok("e")),
    ("{{range true}}{{end}}", Err(r#"1:8: executing "" at <true>: range can't iterate over true"#)),
    ("{{.Config.Labels.nope.x}}", Ok("<no value>")),
    (r#"{{and true false}} {{or false 0}} {{and 1 "x" true}}"#, Ok("false 0 true")),
    ("{{and .Foo}}", Err(r#"1:6: executing "" at <.Foo>: map has no entry for key "Foo""#)),
    ("{{or true .Foo}}", Ok("true")),
    ("{{eq .Foo 1}}", Err(r#"1:5: executing "" at <.Foo>: map has no entry for key "Foo""#)),
    (r#"{{print 1 | printf "%s%s" "a"}}"#, Ok("a1")),
];
