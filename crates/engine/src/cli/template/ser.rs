//! From anything that serde can write to [`Value`], keeping apart what JSON does not: structures
//! from maps, and fields that were left out from fields that do not exist.

use std::{fmt, rc::Rc};

use serde::{
    Serialize,
    ser::{
        self, Impossible, SerializeMap, SerializeSeq, SerializeStruct, SerializeTuple,
        SerializeTupleStruct,
    },
};

use super::value::{Kind, Value};
use crate::image::inspect::{NIL_LIST, NIL_MAP};

/// The value of `from`.
pub(super) fn to_value<T: Serialize + ?Sized>(from: &T) -> Result<Value, String> {
    from.serialize(ToValue).map_err(|e| e.0)
}

struct ToValue;

#[derive(Debug)]
struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

impl ser::Error for Failed {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

struct List(Vec<Value>);

impl SerializeSeq for List {
    type Ok = Value;
    type Error = Failed;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        self.0.push(value.serialize(ToValue)?);
        Ok(())
    }

    fn end(self) -> Result<Value, Failed> {
        Ok(Value::List(self.0.into()))
    }
}

impl SerializeTuple for List {
    type Ok = Value;
    type Error = Failed;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Result<Value, Failed> {
        SerializeSeq::end(self)
    }
}

impl SerializeTupleStruct for List {
    type Ok = Value;
    type Error = Failed;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Result<Value, Failed> {
        SerializeSeq::end(self)
    }
}

struct Fields {
    kind: Kind,
    fields: Vec<(Rc<str>, Value)>,
    key: Option<Rc<str>>,
}

impl SerializeStruct for Fields {
    type Ok = Value;
    type Error = Failed;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Failed> {
        self.fields.push((key.into(), value.serialize(ToValue)?));
        Ok(())
    }

    fn skip_field(&mut self, key: &'static str) -> Result<(), Failed> {
        self.fields.push((key.into(), Value::Empty));
        Ok(())
    }

    fn end(self) -> Result<Value, Failed> {
        Ok(Value::object(self.kind, self.fields))
    }
}

impl SerializeMap for Fields {
    type Ok = Value;
    type Error = Failed;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Failed> {
        let key = key.serialize(ToValue)?;
        self.key = Some(match key {
            Value::Str(s) => s,
            other => Rc::from(other.to_string()),
        });
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        let key = self
            .key
            .take()
            .ok_or_else(|| Failed("a value without a key".into()))?;
        self.fields.push((key, value.serialize(ToValue)?));
        Ok(())
    }

    fn end(self) -> Result<Value, Failed> {
        Ok(Value::object(self.kind, self.fields))
    }
}

fn unsigned(n: u64) -> Value {
    i64::try_from(n).map_or(Value::Large(n), Value::Int)
}

impl ser::Serializer for ToValue {
    type Ok = Value;
    type Error = Failed;
    type SerializeSeq = List;
    type SerializeTuple = List;
    type SerializeTupleStruct = List;
    type SerializeTupleVariant = Impossible<Value, Failed>;
    type SerializeMap = Fields;
    type SerializeStruct = Fields;
    type SerializeStructVariant = Impossible<Value, Failed>;

    fn serialize_bool(self, v: bool) -> Result<Value, Failed> {
        Ok(Value::Bool(v))
    }

    fn serialize_i8(self, v: i8) -> Result<Value, Failed> {
        Ok(Value::Int(v.into()))
    }

    fn serialize_i16(self, v: i16) -> Result<Value, Failed> {
        Ok(Value::Int(v.into()))
    }

    fn serialize_i32(self, v: i32) -> Result<Value, Failed> {
        Ok(Value::Int(v.into()))
    }

    fn serialize_i64(self, v: i64) -> Result<Value, Failed> {
        Ok(Value::Int(v))
    }

    fn serialize_u8(self, v: u8) -> Result<Value, Failed> {
        Ok(Value::Int(v.into()))
    }

    fn serialize_u16(self, v: u16) -> Result<Value, Failed> {
        Ok(Value::Int(v.into()))
    }

    fn serialize_u32(self, v: u32) -> Result<Value, Failed> {
        Ok(Value::Int(v.into()))
    }

    fn serialize_u64(self, v: u64) -> Result<Value, Failed> {
        Ok(unsigned(v))
    }

    fn serialize_f32(self, v: f32) -> Result<Value, Failed> {
        Ok(Value::Float(v.into()))
    }

    fn serialize_f64(self, v: f64) -> Result<Value, Failed> {
        Ok(Value::Float(v))
    }

    fn serialize_char(self, v: char) -> Result<Value, Failed> {
        Ok(Value::text(v.to_string()))
    }

    fn serialize_str(self, v: &str) -> Result<Value, Failed> {
        Ok(Value::text(v))
    }

    fn serialize_bytes(self, v: &[u8]) -> Result<Value, Failed> {
        Ok(Value::List(
            v.iter().map(|b| Value::Int((*b).into())).collect(),
        ))
    }

    fn serialize_none(self) -> Result<Value, Failed> {
        Ok(Value::Nil)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, v: &T) -> Result<Value, Failed> {
        v.serialize(self)
    }

    fn serialize_unit(self) -> Result<Value, Failed> {
        Ok(Value::Nil)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Value, Failed> {
        Ok(Value::object(Kind::Struct, Vec::new()))
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<Value, Failed> {
        Ok(Value::text(variant))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        v: &T,
    ) -> Result<Value, Failed> {
        match name {
            NIL_LIST => Ok(Value::NilList),
            NIL_MAP => Ok(Value::NilMap),
            _ => v.serialize(self),
        }
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        v: &T,
    ) -> Result<Value, Failed> {
        let value = v.serialize(ToValue)?;
        Ok(Value::object(Kind::Struct, vec![(variant.into(), value)]))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<List, Failed> {
        Ok(List(Vec::new()))
    }

    fn serialize_tuple(self, _: usize) -> Result<List, Failed> {
        Ok(List(Vec::new()))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<List, Failed> {
        Ok(List(Vec::new()))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Failed> {
        Err(Failed("a tuple variant has no form in a template".into()))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Fields, Failed> {
        Ok(Fields {
            kind: Kind::Map,
            fields: Vec::new(),
            key: None,
        })
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Fields, Failed> {
        Ok(Fields {
            kind: Kind::Struct,
            fields: Vec::new(),
            key: None,
        })
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Failed> {
        Err(Failed("a struct variant has no form in a template".into()))
    }
}
