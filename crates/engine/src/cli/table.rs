//! Lists of things as docker prints them: tables, templates, JSON, ids alone.

use std::io::Write as _;

use tabwriter::TabWriter;

use super::template::{Template, Value};
use crate::error::{Error, Kind, Result};

/// A kind of list.
#[derive(Debug)]
pub(crate) struct Columns {
    /// What a row is, for messages.
    pub(crate) name: &'static str,
    /// Fields and their headers. A template may use all of them.
    pub(crate) headers: &'static [(&'static str, &'static str)],
    /// The fields of the table that is shown unless another is asked for.
    pub(crate) table: &'static [&'static str],
    /// The field that `--quiet` shows.
    pub(crate) quiet: &'static str,
}

/// A list that is being printed.
#[derive(Debug)]
pub(crate) struct List {
    name: &'static str,
    template: Template,
    /// The row of headers, if there is one.
    header: Option<String>,
    body: String,
}

impl List {
    /// A list by `--format` and `--quiet`: nothing or `table` for a table, `table TEMPLATE`,
    /// `json`, or a template.
    ///
    /// # Errors
    /// As [`Template::parse`]'s, and those of a template that the headers already do not fit.
    pub(crate) fn new(columns: &Columns, format: Option<&str>, quiet: bool) -> Result<Self> {
        let format = format.unwrap_or_default();
        let (is_table, text) = match format.strip_prefix("table") {
            _ if format.is_empty() => (true, ""),
            Some(rest) => (true, rest.trim()),
            None => (false, format.trim()),
        };
        let fields = |fields: &[&str]| {
            let all: Vec<String> = fields.iter().map(|f| format!("{{{{.{f}}}}}")).collect();
            all.join("\t")
        };
        let (is_table, text) = match text {
            "" if is_table && quiet => (false, fields(&[columns.quiet])),
            "" => (is_table, fields(columns.table)),
            "json" if !is_table => (false, "{{json .}}".to_owned()),
            text => (is_table, text.replace("\\t", "\t").replace("\\n", "\n")),
        };
        let template = Template::parse(&text)?;
        let header = is_table
            .then(|| template.render_header(columns.headers))
            .transpose()?;
        Ok(Self {
            name: columns.name,
            template,
            header,
            body: String::new(),
        })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// As [`Template::render_value`]'s.
    pub(crate) fn row(&mut self, fields: Vec<(&str, Value)>) -> Result<()> {
        let row = Value::row(self.name, fields);
        self.body.push_str(&self.template.render_value(&row)?);
        self.body.push('\n');
        Ok(())
    }

    /// All that is to be printed.
    ///
    /// # Errors
    /// [`Kind::Bug`] if columns cannot be laid out.
    pub(crate) fn finish(self) -> Result<String> {
        let Some(header) = self.header else {
            return Ok(self.body);
        };
        // Docker's columns are at least 10 wide, 3 of them blanks.
        laid_out(&format!("{header}\n{}", self.body), 7)
    }
}

/// Lines with tabs in columns that are at least so wide, and three blanks apart.
///
/// # Errors
/// [`Kind::Bug`] if columns cannot be laid out.
pub(crate) fn laid_out(lines: &str, width: usize) -> Result<String> {
    let failed = |what: String| Error::new(Kind::Bug, format!("lay out a table: {what}"));
    let mut out = TabWriter::new(Vec::new()).minwidth(width).padding(3);
    out.write_all(lines.as_bytes())
        .map_err(|e| failed(e.to_string()))?;
    let bytes = out.into_inner().map_err(|e| failed(e.to_string()))?;
    String::from_utf8(bytes).map_err(|e| failed(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGES: Columns = Columns {
        name: "image",
        headers: &[
            ("Repository", "REPOSITORY"),
            ("Tag", "TAG"),
            ("ID", "IMAGE ID"),
            ("CreatedSince", "CREATED"),
            ("CreatedAt", "CREATED AT"),
            ("Size", "SIZE"),
        ],
        table: &["Repository", "Tag", "ID", "CreatedSince", "Size"],
        quiet: "ID",
    };

    fn print(format: &str, quiet: bool) -> Result<String> {
        let mut list = List::new(&IMAGES, Some(format), quiet)?;
        for (name, tag, id, since, size) in [
            ("alpine", "latest", "a1a1a1a1a1a1", "3 years ago", "5.53MB"),
            (
                "localhost:5000/team/app",
                "v1",
                "a1a1a1a1a1a1",
                "3 years ago",
                "5.53MB",
            ),
            ("<none>", "<none>", "b2b2b2b2b2b2", "2 hours ago", "1.23GB"),
        ] {
            list.row(vec![
                ("Repository", Value::text(name)),
                ("Tag", Value::text(tag)),
                ("ID", Value::text(id)),
                ("CreatedSince", Value::text(since)),
                ("CreatedAt", Value::text("2023-11-14 22:13:20 +0000 UTC")),
                ("Size", Value::text(size)),
            ])?;
        }
        list.finish()
    }

    /// What docker 28.2.2 printed for the same images.
    #[test]
    fn as_docker_prints_it() {
        let table = "\
REPOSITORY                TAG       IMAGE ID       CREATED       SIZE
alpine                    latest    a1a1a1a1a1a1   3 years ago   5.53MB
localhost:5000/team/app   v1        a1a1a1a1a1a1   3 years ago   5.53MB
<none>                    <none>    b2b2b2b2b2b2   2 hours ago   1.23GB
";
        assert_eq!(print("", false).unwrap(), table);
        assert_eq!(print("table", false).unwrap(), table);
        let ids = "a1a1a1a1a1a1\na1a1a1a1a1a1\nb2b2b2b2b2b2\n";
        assert_eq!(print("", true).unwrap(), ids);
        assert_eq!(print("{{.ID}}", false).unwrap(), ids);
        let text = print(
            r"table {{.ID}}\t{{.Size}}|{{upper .CreatedSince}}\t{{.CreatedAt}}",
            false,
        );
        let expected = "\
IMAGE ID       SIZE|CREATED         CREATED AT
a1a1a1a1a1a1   5.53MB|3 YEARS AGO   2023-11-14 22:13:20 +0000 UTC
";
        assert!(text.unwrap().starts_with(expected));
        let json = print("json", false).unwrap();
        let expected = r#"{"CreatedAt":"2023-11-14 22:13:20 +0000 UTC","CreatedSince":"2 hours ago","ID":"b2b2b2b2b2b2","Repository":"\u003cnone\u003e","Size":"1.23GB","Tag":"\u003cnone\u003e"}"#;
        assert_eq!(json.lines().last(), Some(expected));
        assert_eq!(print("pretty", false).unwrap(), "pretty\n".repeat(3));
    }

    #[test]
    fn wrong_templates() {
        let e = print("{{.Foo}}", false).unwrap_err();
        let want = "template parsing error: template: :1:2: executing \"\" at <.Foo>: can't \
                    evaluate field Foo in type image";
        assert_eq!(e.message(), want);
        assert!(e.hint().unwrap().contains("Repository"), "{e:?}");
        let e = print("table {{.ID", false).unwrap_err();
        assert_eq!(
            e.message(),
            "template parsing error: template: :1: unclosed action"
        );
        // Without rows there is a header only.
        let list = List::new(&IMAGES, None, false).unwrap();
        let header = "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE\n";
        assert_eq!(list.finish().unwrap(), header);
        let list = List::new(&IMAGES, Some("json"), false).unwrap();
        assert_eq!(list.finish().unwrap(), "");
    }
}
