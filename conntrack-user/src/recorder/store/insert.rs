//! A row of the journal, each column next to its value.

/// `insert!(connection, "INSERT" table { column: value, ... }, "ON CONFLICT ...")`, or `"REPLACE"`; gives a
/// `rusqlite::Result<()>`. The statement is prepared once.
macro_rules! insert {
    ($connection:expr, $how:literal $table:ident {
        $first:ident: $value:expr $(, $column:ident: $more:expr)* $(,)?
    } $(, $conflict:literal)?) => {
        $connection
            .prepare_cached(concat!(
                $how, " INTO ", stringify!($table),
                " (", stringify!($first) $(, ", ", stringify!($column))*, ")",
                " VALUES (?" $(, insert!(@parameter $column))*, ")"
                $(, " ", $conflict)?
            ))
            .and_then(|mut insert| insert.execute(rusqlite::params![$value $(, $more)*]))
            .map(drop)
    };
    (@parameter $column:ident) => { ", ?" };
}

pub(super) use insert;
