//! What `lento verify` found.

use super::{bytes, screen::Paint, words::counted};
use crate::control::{Compared, Difference, Found};

/// One path that differs.
pub(crate) fn difference(difference: &Difference, paint: Paint) -> String {
    let path = if difference.path.0.is_empty() { "(root)".to_owned() } else { difference.path.to_string() };
    match difference.found {
        Found::OnlyHere => format!("{} {path}", paint.bad("only here        ")),
        Found::OnlyThere => {
            format!("{} {path}", paint.bad(format_args!("{:<17}", format!("only on {}", difference.host))))
        }
        Found::Differs => {
            let fields: Vec<_> =
                difference.fields.iter().map(|f| format!("{} {} / {}", f.field, f.here, f.there)).collect();
            let word = format!("differs on {}", difference.host);
            format!("{} {path}  {}", paint.bad(format_args!("{word:<17}")), paint.dim(fields.join(", ")))
        }
    }
}

/// The comparison with one host.
pub(crate) fn compared(compared: &Compared, paint: Paint) -> String {
    if let Some(why) = &compared.error {
        return format!("with {}: {} {why}", compared.host, paint.bad("not compared:"));
    }
    let verdict = match compared.differences {
        0 => paint.good("equal"),
        n => paint.bad(counted(n, "difference")),
    };
    format!("with {}: {}, {}: {verdict}", compared.host, counted(compared.objects, "object"), bytes(compared.bytes))
}

#[cfg(test)]
mod tests {
    use super::{compared, difference};
    use crate::{
        control::{ByteText, Compared, Difference, FieldDifference, Found},
        output::screen::Paint,
    };

    #[test]
    fn a_difference_names_path_field_and_both_values() {
        let host: protocol::HostName = "b".parse().expect("legal");
        let field = FieldDifference { field: "mode".into(), here: "0644".into(), there: "0600".into() };
        let found = Difference {
            host: host.clone(),
            path: ByteText(b"x/y".to_vec()),
            found: Found::Differs,
            fields: vec![field],
        };
        assert_eq!(difference(&found, Paint(false)), "differs on b      x/y  mode 0644 / 0600");
        let all = Compared { host, objects: 2, bytes: 10, differences: 1, error: None };
        assert_eq!(compared(&all, Paint(false)), "with b: 2 objects, 10 B: 1 difference");
    }
}
