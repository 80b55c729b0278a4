//! Templates, and documents that they are about.

/// Inputs for `template`: a template, a zero byte, a document.
pub fn all() -> Vec<Vec<u8>> {
    let document = r#"{"Id":"sha256:ab","Size":7,"Ratio":1.5,"Yes":true,"No":null,
        "Names":["/a","/b"],"Labels":{"a.b/c":"x","é":""},"State":{"Pid":9,"Deep":{"er":[[1]]}}}"#;
    [
        "{{.Id}} {{.State.Pid}} {{ .Nope }}",
        "{{json .}}{{json .Labels}}",
        r#"{{range $i, $n := .Names}}{{if $i}}, {{end}}{{$n}}{{else}}none{{end}}"#,
        r#"{{range $k, $v := .Labels}}{{$k}}={{$v}}{{break}}{{continue}}{{end}}"#,
        r#"{{with $x := .State}}{{$x.Pid}}{{$.Id}}{{else with .No}}{{.}}{{end}}"#,
        "{{if and .Yes (not .No)}}a{{else if or .No .Yes}}b{{else}}c{{end}}",
        "{{- /* said */ -}} a {{- .Id -}} b",
        r#"{{$x := 1}}{{$x = "two"}}{{$x}}"#,
        r#"{{index .Labels "a.b/c"}}{{index .Names 1}}{{(index .State.Deep.er 0)}}"#,
        r#"{{split .Id ":" | join "-"}}{{join .Names ","}}{{len .Names}}{{slice .Id 1 3}}"#,
        r#"{{upper .Id | lower | title}}{{pad .Id 1 2}}{{truncate .Id 3}}{{print 1 "a"}}{{println}}"#,
        r#"{{printf "%-8s|%08.3f|%+d|%q|%x|%v|%[2]d%%%*d" .Id .Ratio .Size "q" 255 .State 3 4}}"#,
        "{{eq .Size 7 8}}{{ne .Id `raw`}}{{lt 1 2}}{{le 1.5 2.5}}{{gt 'b' 'a'}}{{ge 0x1F 0b1}}",
        r#"{{html "<a>"}}{{urlquery "a b"}}{{"\u00e9\x41\101"}}{{1e3}}{{-1_0}}"#,
        r#"{{range 3}}{{.}}{{end}}{{.Label "k"}}{{.Names "x"}}"#,
    ]
    .iter()
    .map(|template| [template.as_bytes(), &[0], document.as_bytes()].concat())
    .collect()
}
