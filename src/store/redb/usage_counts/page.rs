//! Reading individual requests page by page.

use std::ops::ControlFlow;

use redb::ReadTransaction;

use super::KeyScope;
use crate::model::{Usage, UsageQuery};
use crate::store::StoreError;
use crate::store::codec::usage_block::UsageBlockReader;
use crate::store::redb::usage::{SkippedBlocks, numbered_blocks};
use crate::store::usage_counts::UsagePage;
use crate::time::Timestamp;

/// The most blocks that a page reads: about 200,000 requests.
const MOST_BLOCKS: usize = 32;

/// The bits of a place for the row in its block, which has fewer than 65,536 bytes. The bits above are the
/// number of the block, which it keeps when it is full.
const ROW_BITS: u32 = 16;

/// Returns at most `limit` rows, from a place on.
pub(in crate::store::redb) fn page(
    txn: &ReadTransaction,
    query: &UsageQuery,
    from: u64,
    limit: usize,
    damaged: &SkippedBlocks,
) -> Result<UsagePage, StoreError> {
    let keys = KeyScope::read(txn, &query.filter)?;
    let is_counted = |usage: &Usage| {
        let is_in_time =
            usage.at >= query.since && (usage.at < query.until || query.until == Timestamp::MAX);
        is_in_time
            && query.filter.accepts(usage)
            && usage.key_id.is_some_and(|key| keys.contains(key))
    };
    let (first, skipped) = (from >> ROW_BITS, from & ((1 << ROW_BITS) - 1));
    let (mut rows, mut next, mut blocks) = (Vec::new(), None, 0);
    let range = query.since..query.until;
    numbered_blocks(txn, first, &range, damaged, |number, block| {
        if blocks == MOST_BLOCKS {
            next = Some(number << ROW_BITS);
            return Ok(ControlFlow::Break(()));
        }
        blocks += 1;
        for (row, event) in (0..).zip(UsageBlockReader::new(block)) {
            if number == first && row < skipped {
                event?;
                continue;
            }
            if rows.len() == limit {
                next = Some(number << ROW_BITS | row);
                return Ok(ControlFlow::Break(()));
            }
            let (event, path) = event?;
            let usage = event.to_usage(path);
            if is_counted(&usage) {
                rows.push(usage);
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(UsagePage { rows, next })
}
