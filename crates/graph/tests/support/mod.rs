//! File systems on loop devices, layers built by code, and trees read entry by entry.
#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

pub mod fs;
pub mod layers;
pub mod tree;

use std::{os::fd::OwnedFd, sync::Arc};

use unlade_graph::driver::{Driver, LayerId, LayerKey, LayerRequest, MountOf, Parents};
use unlade_unpack::{Algorithm, Cancel, Digest, Expect, Result, Unpacker, source::BytesSource};

pub fn sha(data: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, data)
}

/// Keys of layers, given by the digests of their tar streams, lowest first.
pub fn keys(diff_ids: &[Digest]) -> Vec<LayerKey> {
    let mut chain: Option<Digest> = None;
    let mut keys = Vec::new();
    for diff_id in diff_ids {
        let chain_id = match chain {
            None => *diff_id,
            Some(below) => sha(format!("{below} {diff_id}").as_bytes()),
        };
        chain = Some(chain_id);
        keys.push(LayerKey {
            diff_id: *diff_id,
            chain_id,
        });
    }
    keys
}

/// Applies one layer, a blob in any form that the unpacker takes.
pub fn apply_one(
    driver: &dyn Driver,
    unpacker: &Unpacker,
    blob: &[u8],
    parents: Parents,
    key: impl FnOnce(Digest) -> LayerKey,
) -> Result<LayerId> {
    let request = LayerRequest {
        parents,
        unpacker: unpacker.clone(),
        cancel: Cancel::new(),
    };
    let mut txn = driver.begin_layer(request)?;
    let source = BytesSource::new(blob.to_vec());
    let report = unpacker.run(source, Expect::default(), txn.sink())?;
    Ok(txn.commit(&key(report.diff_id), &report)?.id)
}

/// Applies the layers of an image one after the other, as far as they are not there.
pub fn apply(driver: &dyn Driver, blobs: &[Vec<u8>]) -> Result<Vec<LayerId>> {
    let unpacker = Unpacker::new().threads(2);
    let (mut ids, mut diff_ids) = (Vec::new(), Vec::new());
    for blob in blobs {
        let parents = Parents::known(ids.clone());
        let id = apply_one(driver, &unpacker, blob, parents, |diff_id| {
            diff_ids.push(diff_id);
            keys(&diff_ids).pop().unwrap()
        })?;
        ids.push(id);
    }
    // Some drivers find out only now whether a layer fits those below.
    driver.prepare(&ids)?;
    Ok(ids)
}

/// Applies all layers at once, where the driver can; the topmost begins first.
pub fn apply_at_once(driver: &Arc<dyn Driver>, tars: &[Vec<u8>]) -> Vec<LayerId> {
    let keys = keys(&tars.iter().map(|t| sha(t)).collect::<Vec<_>>());
    let promises: Vec<Parents> = tars.iter().map(|_| Parents::default()).collect();
    let unpacker = Unpacker::new().threads(2);
    let mut ids = Vec::new();
    std::thread::scope(|scope| {
        let mut running: Vec<_> = (0..tars.len())
            .rev()
            .map(|n| {
                let (promise, unpacker) = (promises[n].clone(), &unpacker);
                let (key, tar) = (keys[n], &tars[n]);
                scope.spawn(move || apply_one(&**driver, unpacker, tar, promise, |_| key).unwrap())
            })
            .collect();
        for promise in &promises {
            promise.set(ids.clone());
            ids.push(running.pop().unwrap().join().unwrap());
        }
    });
    ids
}

pub fn mount_layers(driver: &dyn Driver, layers: &[LayerId]) -> OwnedFd {
    driver.mount(MountOf::Layers(layers)).unwrap()
}
