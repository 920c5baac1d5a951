//! One option of a configuration `C`, whatever its type: its path, its documentation, its field.
//!
//! [`options!`] makes structs, defaults and the list of all options from one declaration of each
//! option, so that a key, its default and its documentation cannot disagree.

use super::{
    kind::Kind,
    value::{Fault, FoundValue},
};

/// An option that may be set.
pub struct ConfigOption<C: 'static> {
    /// Table and name, dotted: `sense.interval`.
    pub path: &'static str,
    doc: &'static str,
    slot: &'static dyn OptionSlot<C>,
}

/// A table of options.
pub struct Table<C: 'static> {
    /// Name, dotted; empty for the top level.
    pub path: &'static str,
    /// Options in the order in which they are printed.
    pub options: &'static [ConfigOption<C>],
    doc: &'static str,
}

impl<C> Table<C> {
    /// Makes a table; `doc` may begin with white space, as a doc comment does.
    pub const fn new(
        path: &'static str,
        doc: &'static str,
        options: &'static [ConfigOption<C>],
    ) -> Self {
        Self { path, options, doc }
    }

    /// Documentation for operators.
    pub fn doc(&self) -> &'static str {
        self.doc.trim()
    }
}

impl<C> ConfigOption<C> {
    /// Makes an option; `doc` may begin with white space, as a doc comment does.
    pub const fn new(
        path: &'static str,
        doc: &'static str,
        slot: &'static dyn OptionSlot<C>,
    ) -> Self {
        Self { path, doc, slot }
    }

    /// Documentation for operators, without the range.
    pub fn doc(&self) -> &'static str {
        self.doc.trim()
    }

    /// Splits the path into table and name: `("detect.leak", "warm_up")`; the top level is `""`.
    pub fn split(&self) -> (&'static str, &'static str) {
        self.path.rsplit_once('.').unwrap_or(("", self.path))
    }

    /// Stores a value in its field of `config`.
    ///
    /// # Errors
    ///
    /// Returns everything that is wrong with the value; the field keeps its value then.
    pub fn set(&self, config: &mut C, found: &FoundValue<'_>) -> Result<(), Vec<Fault>> {
        self.slot.set(config, found)
    }

    /// Writes its value in `config` as TOML.
    pub fn write(&self, config: &mut C) -> String {
        self.slot.write(config)
    }

    /// Describes the range of values; `None` if there is none.
    pub fn range(&self) -> Option<String> {
        self.slot.range()
    }

    /// Returns whether the value is the path of a secret.
    pub fn is_secret(&self) -> bool {
        self.slot.is_secret()
    }
}

/// A field of the configuration with the kind of its values.
pub struct Field<C, K: Kind> {
    /// Kind of value.
    pub kind: K,
    /// Place in the configuration.
    pub field: fn(&mut C) -> &mut K::Value,
}

/// A [`Field`] of any kind.
pub trait OptionSlot<C>: Sync {
    /// See [`ConfigOption::set`].
    fn set(&self, config: &mut C, found: &FoundValue<'_>) -> Result<(), Vec<Fault>>;
    /// See [`ConfigOption::write`].
    fn write(&self, config: &mut C) -> String;
    /// See [`ConfigOption::range`].
    fn range(&self) -> Option<String>;
    /// See [`ConfigOption::is_secret`].
    fn is_secret(&self) -> bool;
}

impl<C, K: Kind> OptionSlot<C> for Field<C, K> {
    fn set(&self, config: &mut C, found: &FoundValue<'_>) -> Result<(), Vec<Fault>> {
        *(self.field)(config) = self.kind.read(found)?;
        Ok(())
    }

    fn write(&self, config: &mut C) -> String {
        self.kind.write((self.field)(config))
    }

    fn range(&self) -> Option<String> {
        self.kind.range()
    }

    fn is_secret(&self) -> bool {
        self.kind.is_secret()
    }
}

/// Declares the tables of the configuration and their options, each once:
///
/// ```text
/// /// Documentation of the table.
/// pub struct TableConfig [path.of.table] {
///     /// Documentation of the option.
///     field as "key": Type = default, kind;
///     tables {
///         /// Documentation of a table inside.
///         inner: InnerConfig,
///     }
/// }
/// ```
///
/// `as "key"` is for a key that is named otherwise than its field. Makes the structs, their
/// defaults and `TABLES`, which lists every table.
macro_rules! options {
    ($(
        $(#[doc = $table_doc:literal])+
        pub struct $name:ident $path:tt {
            $(
                $(#[doc = $doc:literal])+
                $field:ident $(as $key:literal)?: $type:ty = $default:expr, $kind:expr;
            )*
            $(tables {
                $(
                    $(#[doc = $inner_doc:literal])+
                    $inner:ident: $inner_type:ty,
                )+
            })?
        }
    )+) => {
        $(
            $(#[doc = $table_doc])+
            #[derive(Debug, Clone, PartialEq)]
            pub struct $name {
                $(
                    $(#[doc = $doc])+
                    pub $field: $type,
                )*
                $($(
                    $(#[doc = $inner_doc])+
                    pub $inner: $inner_type,
                )+)?
            }

            impl Default for $name {
                fn default() -> Self {
                    Self {
                        $($field: $default,)*
                        $($($inner: <$inner_type>::default(),)+)?
                    }
                }
            }
        )+

        /// Tables of the configuration, in the order in which they are printed.
        pub const TABLES: &[Table<Config>] = &[$(
            Table::new(
                table_path!($path),
                concat!($($table_doc),+),
                &[$(
                    ConfigOption::new(
                        option_path!($path $field $($key)?),
                        concat!($($doc),+),
                        &Field { kind: $kind, field: place!($path $field) },
                    ),
                )*],
            ),
        )+];
    };
}

/// Joins the names of a table's path.
macro_rules! table_path {
    ([]) => { "" };
    ([$first:ident $(. $rest:ident)*]) => {
        concat!(stringify!($first) $(, ".", stringify!($rest))*)
    };
}

/// Joins a table's path and an option's name.
macro_rules! option_path {
    ([] $field:ident) => { stringify!($field) };
    ([$($path:ident).+] $field:ident) => {
        concat!($(stringify!($path), ".",)+ stringify!($field))
    };
    ([$($path:ident).+] $field:ident $key:literal) => {
        concat!($(stringify!($path), ".",)+ $key)
    };
}

/// Makes the function that finds an option's field.
macro_rules! place {
    ([$($path:ident).*] $field:ident) => {
        |config: &mut Config| &mut config$(.$path)*.$field
    };
}

pub(super) use {option_path, options, place, table_path};
