//! `martlet transaction …`: transactions that nobody ended, and ending them.

use super::table::{print, print_json, right, table};
use super::{ClientError, Connection, REQUEST_TIMEOUT, accepted, call_failed, request};
use crate::cli::{EndArgs, TransactionAction};
use crate::duration::show_time;
use martlet_grpc::proto::v1;
use serde_json::json;

/// Transactions asked for at a time.
const PAGE: u32 = 500;

/// Runs one of them.
pub async fn run(action: TransactionAction) -> Result<(), ClientError> {
    match action {
        TransactionAction::List { topic, given_up, count, target } => {
            let mut admin = Connection::open(&target).await?.admin();
            let most = count.unwrap_or(u64::MAX);
            let mut found: Vec<v1::Transaction> = Vec::new();
            let mut from = None;
            while (found.len() as u64) < most {
                let message = v1::ListTransactionsRequest {
                    topic: topic.clone().unwrap_or_default(),
                    given_up,
                    from: from.take(),
                    limit: u64::from(PAGE).min(most - found.len() as u64) as u32,
                };
                let answer = admin.list_transactions(request(message, REQUEST_TIMEOUT)).await;
                let answer = answer.map_err(call_failed("listing transactions"))?.into_inner();
                accepted("listing transactions", answer.status)?;
                found.extend(answer.transactions);
                match answer.next {
                    Some(next) => from = Some(next),
                    None => break,
                }
            }
            if target.json {
                found.iter().for_each(|transaction| println!("{}", to_json(transaction)));
            } else {
                list(&found);
            }
        }
        TransactionAction::Commit(args) => end(args, true).await?,
        TransactionAction::Rollback(args) => end(args, false).await?,
    }
    Ok(())
}

async fn end(args: EndArgs, commit: bool) -> Result<(), ClientError> {
    let mut admin = Connection::open(&args.target).await?.admin();
    let what = if commit { "committing the transaction" } else { "rolling the transaction back" };
    let message = v1::ResolveTransactionRequest { transaction_id: args.transaction_id.clone(), commit };
    let answer = admin.resolve_transaction(request(message, REQUEST_TIMEOUT)).await;
    let answer = answer.map_err(call_failed(what))?.into_inner();
    accepted(what, answer.status)?;
    if args.target.json {
        print_json(&json!({ "transaction_id": args.transaction_id, "topic": answer.topic, "committed": commit }));
    } else if commit {
        println!("committed: its message is in {}", answer.topic);
    } else {
        println!("rolled back: its message does not come to {}", answer.topic);
    }
    Ok(())
}

fn to_json(transaction: &v1::Transaction) -> serde_json::Value {
    json!({
        "transaction_id": transaction.transaction_id,
        "topic": transaction.topic,
        "message_id": transaction.message_id,
        "began_millis": transaction.began_millis,
        "due_millis": transaction.due_millis,
        "checks": transaction.checks,
        "given_up": transaction.given_up,
    })
}

fn list(found: &[v1::Transaction]) {
    if found.is_empty() {
        println!("no transactions wait");
        return;
    }
    let mut table = table(&["topic", "message id", "since", "checks", "next", "transaction id"]);
    right(&mut table, &[3]);
    for transaction in found {
        let due = show_time(transaction.due_millis);
        table.add_row([
            transaction.topic.clone(),
            transaction.message_id.clone(),
            show_time(transaction.began_millis),
            transaction.checks.to_string(),
            if transaction.given_up { format!("given up, dropped {due}") } else { format!("check {due}") },
            transaction.transaction_id.clone(),
        ]);
    }
    print(&table);
}
