"""What the dashboards show: panels in rows, each with its queries."""

RATE = "$__rate_interval"
TOPS = {"percentunit": 0.01}
NO_TLS = "the cluster has no certificates"


def query(expr, legend="{{instance}}", empty=None):
    return {"expr": expr, "legend": legend} | ({"empty": empty} if empty else {})


def panel(title, unit, description, *queries, kind="timeseries", limit=None, least=None, top=None):
    """A value is bad from `limit` on, or below `least`. The axis goes at least to `top`: by itself it goes to 100 where all is 0."""
    return {
        "title": title, "unit": unit, "description": description, "queries": list(queries), "kind": kind, "limit": limit, "least": least,
        "top": top or limit or TOPS.get(unit),
    }  # fmt: skip


def rate(metric, by="instance", of="", legend=None):
    """Events a second."""
    labels = f"$of,{of}" if of else "$of"
    legend = legend or " ".join(f"{{{{{label}}}}}" for label in by.replace(" ", "").split(",") if label)
    return query(f"sum by ({by}) (rate({metric}{{{labels}}}[{RATE}]))", legend)


def happened(metric, by, of="", empty="none in this time"):
    """Events a second of those kinds that there were in the shown time: most kinds never happen, and would fill the legend."""
    labels = f"$of,{of}" if of else "$of"
    made = rate(metric, by, of)
    return query(f"{made['expr']} and sum by ({by}) (increase({metric}{{{labels}}}[$__range])) > 0", made["legend"], empty)


def gauge(metric, legend="{{instance}}", of="", empty=None):
    labels = f"$of,{of}" if of else "$of"
    return query(f"{metric}{{{labels}}}", legend, empty)


def quantiles(metric, of="", by=""):
    """Median and 99th percentile of a histogram."""
    labels = f"$of,{of}" if of else "$of"
    group = f"le, {by}" if by else "le"
    suffix = f" {{{{{by}}}}}" if by else ""
    return [
        query(f"histogram_quantile({part}, sum by ({group}) (rate({metric}_bucket{{{labels}}}[{RATE}])))", f"p{name}{suffix}")
        for part, name in (("0.5", "50"), ("0.99", "99"))
    ]


SENDS = panel(
    "Sends", "ops", "Sends of clients, and what became of them.",
    rate("carillon_gateway_sends_total", "", legend="sends"),
    rate("carillon_gateway_accepted_total", "", legend="accepted"),
    happened("carillon_gateway_refusals_total", "code", of='of="send"'),
)  # fmt: skip
SEND_LATENCY = panel(
    "Time to acceptance", "s", "From reading a send to writing Accepted. The service level is 99 % within 50 ms.",
    *quantiles("carillon_gateway_send_latency_seconds"), limit=0.05,
)  # fmt: skip
DELIVERY_LATENCY = panel(
    "Time to delivery", "s",
    "From the sender's gateway to a connection of the recipient that is live. The service level is 99 % within 250 ms. The clocks of two machines are compared.",
    *quantiles("carillon_gateway_delivery_latency_seconds"), limit=0.25,
)  # fmt: skip
PROCESSES = [
    panel("CPU", "short", "Cores that each process keeps busy.", rate("carillon_node_cpu_seconds_total")),
    panel("Memory", "bytes", "Memory of each process that is in RAM.", gauge("carillon_node_resident_memory_bytes")),
    panel("Open files", "percentunit", "Share of the file descriptors that are open, sockets included.",
          query("carillon_node_open_files{$of} / carillon_node_open_files_limit{$of}")),
]  # fmt: skip


def most(number, expr, by, over, legend):
    """The lines that were highest in the shown time. topk alone would choose others for each moment, and show them all."""
    return query(f"{expr} and topk({number}, max by ({by}) ({over}))", legend)


def highest(number, metric, by, legend, of=""):
    labels = f"$of,{of}" if of else "$of"
    return most(number, f"max by ({by}) ({metric}{{{labels}}})", by, f"max_over_time({metric}{{{labels}}}[$__range] @ end())", legend)


def queues(role):
    of = f'$of,queue=~"{role}_.*"'
    return panel(
        "Queues", "percentunit",
        "How full the fullest queue of each kind is, and all together. What happens when one is full stands in docs/metrics.md.",
        query(f"max by (queue) (carillon_node_queue_fullest_ratio{{{of}}}) and max by (queue) (max_over_time(carillon_node_queue_fullest_ratio{{{of}}}[$__range])) > 0",
              "{{queue}}", "nothing has waited"),
        query(f"sum(carillon_node_queue_length{{{of}}}) / sum(carillon_node_queue_capacity{{{of}}})", "all"),
    )  # fmt: skip


def waiting(role):
    of = f'$of,queue=~"{role}_.*",queue!~".*_bytes"'
    return panel(
        "Waiting", "short", "Items that wait in all queues of each kind in which there were any.",
        query(f"sum by (queue) (carillon_node_queue_length{{{of}}}) and sum by (queue) (max_over_time(carillon_node_queue_length{{{of}}}[$__range])) > 0",
              "{{queue}}", "nothing has waited"),
    )  # fmt: skip


OVERVIEW = [
    ("Now", [
        panel("Ready", "short", "Processes that are ready, by role.", query("sum by (role) (carillon_node_ready{$of})", "{{role}}"), kind="stat"),
        panel("Shards without a leader", "short", "Shards of which no replica leads: nothing can be sent to or read from them.",
              query("count(max by (shard) (carillon_storage_shard_leads{$of}) == 0) or vector(0)", "shards"), kind="stat", limit=1),
        panel("Releases", "short", "Processes of each release.", query("count by (version) (carillon_node_build_info{$of})", "{{version}}"), kind="stat"),
    ]),
    ("Service levels", [
        panel("Sends that fail", "percentunit", "Sends refused because the service could not take them, of all; 0.1 % may be over 30 days.",
              query('carillon:send_errors:ratio_rate5m{namespace=~"$namespace"}', "5 minutes"),
              query('carillon:send_errors:ratio_rate6h{namespace=~"$namespace"}', "6 hours"), limit=0.001),
        panel("Sends that are slow", "percentunit", "Sends accepted after more than 50 ms; 1 % may be over 30 days.",
              query('carillon:slow_sends:ratio_rate5m{namespace=~"$namespace"}', "5 minutes"),
              query('carillon:slow_sends:ratio_rate6h{namespace=~"$namespace"}', "6 hours"), limit=0.01),
        panel("Deliveries that are slow", "percentunit", "Messages that reach a live connection after more than 250 ms; 1 % may be over 30 days.",
              query('carillon:slow_deliveries:ratio_rate5m{namespace=~"$namespace"}', "5 minutes"),
              query('carillon:slow_deliveries:ratio_rate6h{namespace=~"$namespace"}', "6 hours"), limit=0.01),
    ]),
    ("Messages", [SENDS, SEND_LATENCY, DELIVERY_LATENCY]),
    ("Canary", [
        panel("Messages of the canary", "ops", "Messages that canaries send through the whole path, by what became of them. All should be ok.",
              happened("carillon_canary_rounds_total", "result")),
        panel("Time to the canary", "s", "From sending to the acceptance, and to the delivery, of the canaries' messages as clients see it.",
              query(f"histogram_quantile(0.99, sum by (le) (rate(carillon_canary_acceptance_seconds_bucket{{$of}}[{RATE}])))", "p99 accepted"),
              query(f"histogram_quantile(0.99, sum by (le) (rate(carillon_canary_delivery_seconds_bucket{{$of}}[{RATE}])))", "p99 delivered")),
        panel("Since the canary was well", "s", "Time since a canary's message went well.",
              query("time() - carillon_canary_last_success_timestamp_seconds{$of}")),
        panel("Connections that the canary lost", "ops", "Times that a client of a canary lost its connection: a roll of the gateways costs each one.",
              rate("carillon_canary_reconnects_total")),
    ]),
    ("Users", [
        panel("Sessions", "short", "Connections that are signed in, and all that are open.",
              query("sum(carillon_gateway_sessions{$of})", "signed in"), query("sum(carillon_gateway_connections{$of})", "open")),
        panel("Sign-ins", "ops", "Sign-ins by result.", happened("carillon_gateway_sign_ins_total", "result")),
        panel("Connections ended by gateways", "ops", "Why gateways ended connections.", happened("carillon_gateway_byes_total", "code")),
    ]),
    ("Processes", PROCESSES),
    ("What changes", [
        panel("Uptime", "s", "Time since each process started.", query("time() - carillon_node_start_timestamp_seconds{$of}")),
        panel("Stopping", "short", "Processes that stop in order.", query("sum by (instance) (carillon_node_draining{$of})"), top=1),
        panel("Warnings and errors", "ops", "Lines of the log that want somebody.", happened("carillon_node_log_events_total", "instance, level")),
    ]),
    ("Certificates", [
        panel("Certificates", "s", "Time until the first certificate of each kind of file ends, on any process.",
              query("min by (used_for) (carillon_node_certificate_ends_timestamp_seconds{$of} - time())", "{{used_for}}", NO_TLS),
              kind="stat", least=7 * 86400),
        panel("Disks", "percentunit", "Free space on the disks of storage nodes.",
              query("carillon_storage_disk_free_bytes{$of} / carillon_storage_disk_total_bytes{$of}")),
    ]),
]  # fmt: skip

GATEWAY = [
    ("Messages", [SENDS, SEND_LATENCY, DELIVERY_LATENCY]),
    ("Delivery", [
        panel("Deliveries", "ops", "Envelopes written to clients, as they were pushed, or after they were read from the store.",
              rate("carillon_gateway_deliveries_total", "from")),
        panel("Time to acknowledgement", "s", "From writing an envelope to its device's acknowledgement.",
              *quantiles("carillon_gateway_acknowledge_latency_seconds")),
        panel("Pushes out of turn", "ops", "Pushes that were stale or early, or had no room in a mailbox, and the reads that make them good.",
              rate("carillon_gateway_pushes_out_of_turn_total", "why"),
              rate("carillon_gateway_pushes_dropped_total", "", legend="no room"),
              rate("carillon_gateway_gap_fetches_total", "", legend="reads")),
    ]),
    ("Connections", [
        panel("Connections", "short", "Open connections by protocol.", query("sum by (protocol) (carillon_gateway_connections{$of})", "{{protocol}}")),
        panel("Room for connections", "percentunit", "Share of the connections that a gateway may have.",
              query("sum by (instance) (carillon_gateway_connections{$of}) / on (instance) sum by (instance) (carillon_gateway_connections_limit{$of})")),
        panel("Connections refused", "ops", "Connections for which there was no place.", happened("carillon_gateway_connections_refused_total", "why")),
        panel("Sign-ins", "ops", "Sign-ins by way and result.", happened("carillon_gateway_sign_ins_total", "way, result")),
        panel("Sessions", "short", "Connections that are signed in.", gauge("carillon_gateway_sessions")),
        panel("Connections ended", "ops", "Why the gateway ended connections; replaced by a newer one of the same device; closed because the client did not read; asked to move to a gateway with fewer.",
              happened("carillon_gateway_byes_total", "code"),
              rate("carillon_gateway_evictions_total", "", legend="replaced"),
              rate("carillon_gateway_slow_consumers_total", "", legend="too slow"),
              rate("carillon_gateway_rebalanced_total", "", legend="asked to move")),
    ]),
    ("Traffic", [
        panel("Frames", "ops", "Frames read from clients and given to connections.", rate("carillon_gateway_frames_total", "direction")),
        panel("Bytes", "Bps", "Bytes of frames read from clients and written to them.",
              rate("carillon_gateway_received_bytes_total", "", legend="received"), rate("carillon_gateway_sent_bytes_total", "", legend="sent")),
        panel("Refusals", "ops", "What was refused, and why.", happened("carillon_gateway_refusals_total", "of, code")),
    ]),
    ("Files", [
        panel("Uploads and downloads", "ops", "Files that clients put and get over HTTP, by outcome.",
              happened("carillon_gateway_media_transfers_total", "direction, outcome")),
        panel("Bytes of files", "Bps", "Bytes of files that were taken from clients and given to them.",
              happened("carillon_gateway_media_bytes_total", "direction")),
        panel("Previews of pictures", "ops", "Pictures of which a preview was made, and those that have none, by why.",
              happened("carillon_gateway_previews_total", "outcome")),
    ]),
    ("Routers", [
        panel("Links", "short", "Routers to which a link is open.", gauge("carillon_gateway_router_links")),
        panel("Requests without an answer", "percentunit", "Of those that may wait; further ones are refused.",
              query("carillon_gateway_router_requests_pending{$of} / carillon_gateway_router_requests_pending_limit{$of}")),
        panel("Repeats", "ops", "Requests sent again because a link was lost or the owner changed, and sessions announced to routers.",
              rate("carillon_gateway_router_requests_repeated_total", "", legend="repeated"),
              rate("carillon_gateway_announcements_total", "", legend="announced")),
        panel("Leases", "short", "Leases taken since the process started; more than one means that one was lost.", gauge("carillon_gateway_leases_total")),
        queues("gateway"), waiting("gateway"),
    ]),
]  # fmt: skip

ROUTER = [
    ("Requests", [
        panel("Requests", "ops", "Requests of gateways by operation.", happened("carillon_router_requests_total", "op")),
        panel("Requests that failed", "ops", "Requests by outcome, without those that went well.", happened("carillon_router_requests_total", "outcome", of='outcome!="ok"')),
        panel("Time of a send", "s", "From reading a send to its answer: it stands in both inboxes.", *quantiles("carillon_router_request_duration_seconds", 'op="send"')),
        panel("Time of requests", "s", "99th percentile by operation.", quantiles("carillon_router_request_duration_seconds", by="op")[1]),
        panel("Time of an append", "s", "From handing an append to the store client to the store's answer, with all repeats.", *quantiles("carillon_router_append_duration_seconds")),
        panel("Repeats", "ops", "Appends that the store knew already, and lanes that began again after a refusal or a loss.",
              rate("carillon_router_repeats_total", "", legend="known already"), rate("carillon_router_lanes_reopened_total", "", legend="lanes reopened")),
    ]),
    ("Delivery", [
        panel("Deliveries", "ops", "Given to gateways, dropped for want of room, and gateways told how far dropped ones reached.",
              rate("carillon_router_pushes_total", "", legend="given"), rate("carillon_router_pushes_dropped_total", "", legend="dropped"),
              rate("carillon_router_behind_total", "", legend="told")),
        panel("To other routers", "ops", "Deliveries given to other routers, and dropped on the way.",
              rate("carillon_router_hints_total", "", legend="given"), rate("carillon_router_hints_dropped_total", "", legend="dropped")),
        panel("The last check", "ops", "Inboxes of signed-in users that were compared with the store, and those with news that nobody had told.",
              rate("carillon_router_heads_checked_total", "", legend="compared"), rate("carillon_router_heads_news_total", "", legend="with news")),
        panel("Outboxes", "ops", "Rows that workers have carried out, and rows that the store has refused.", happened("carillon_router_outbox_rows_total", "outcome")),
        panel("Age of the outboxes", "s", "Of the oldest row that was not carried out; 0: there is none.", gauge("carillon_router_outbox_lag_seconds")),
        panel("Dead letters", "short", "Rows of outboxes that were given up.", gauge("carillon_router_outbox_dead_letters")),
        panel("Scheduled messages", "ops", "Scheduled messages whose time has come: sent, or refused for good.", happened("carillon_router_scheduled_messages_total", "outcome")),
        panel("Reports", "ops", "Reports of users to the moderators, by their reasons.", happened("carillon_router_reports_total", "reason")),
        panel("Open reports", "short", "Reports that no moderator has resolved.", gauge("carillon_router_open_reports")),
        panel("Age of the oldest report", "s", "Of those that are open; 0: there is none.", gauge("carillon_router_oldest_report_seconds")),
    ]),
    ("Users", [
        panel("Sessions", "short", "Live sessions of the users that each router owns.", query("sum by (instance) (carillon_router_sessions{$of})")),
        panel("Accounts", "short", "Accounts in memory.", query("sum by (instance) (carillon_router_accounts{$of})")),
        panel("Accounts found in memory", "percentunit", "Share of the looks for recipients' accounts that found them in memory.",
              query(f'sum by (instance) (rate(carillon_router_account_lookups_total{{$of,result="hit"}}[{RATE}])) / sum by (instance) (rate(carillon_router_account_lookups_total{{$of}}[{RATE}]))')),
    ]),
    ("Ring", [
        panel("Ring", "short", "Routers in the ring by which each router acts; and 1 while it is behind the newest version of the ring.",
              gauge("carillon_router_ring_routers", "{{instance}} routers"),
              query("carillon_router_ring_version{$of} < bool scalar(max(carillon_router_ring_version{$of}))", "{{instance}} behind")),
        panel("Lease", "short", "1 while the router holds its lease.", gauge("carillon_router_lease_held")),
        panel("Gateways that have not announced", "short", "Gateways whose sessions are not all known since the ring changed last.",
              query("max by (instance) (carillon_router_gateways_missing{$of})"), top=1),
        panel("Links", "short", "Open links of gateways and other routers.", gauge("carillon_router_links", "{{instance}} {{kind}}")),
        queues("router"), waiting("router"),
    ]),
    ("Copies", [
        panel("Inboxes put back", "short", "Inboxes of which a device had more than the store, since the process started.", gauge("carillon_router_epochs_renewed_total"), top=1),
        panel("CPU", "short", "Cores that each router keeps busy.", query(f'sum by (instance) (rate(carillon_node_cpu_seconds_total{{$of}}[{RATE}]) and on (instance) carillon_node_ready{{role="router"}})')),
    ]),
]  # fmt: skip

STORAGE = [
    ("Shards", [
        panel("Shards without a leader", "short", "Nothing can be sent to or read from these shards; and those whose leader some replica does not know.",
              *[query(f'count(max by (shard) (carillon_storage_shard_leads{{$of,shard=~"{kind}-.*"}}) == 0) or vector(0)', kind) for kind in ("directory", "timeline")],
              query("count(min by (shard) (carillon_storage_shard_leader_known{$of}) == 0) or vector(0)", "leader not known to all"), top=1),
        panel("Shards led", "short", "Shards that each node leads.", gauge("carillon_storage_leading_shards")),
        panel("Elections", "short", "Elections in ten minutes, and leads handed over on purpose.",
              query("sum(max by (shard) (delta(carillon_storage_shard_term{$of}[10m])))", "elections"),
              query("sum by (outcome) (increase(carillon_storage_lead_transfers_total{$of}[10m]))", "handed over, {{outcome}}")),
        panel("Commits", "ops", "Entries committed a second, of the shards with most.",
              most(5, f"max by (shard) (deriv(carillon_storage_shard_committed_index{{$of}}[{RATE}]))", "shard",
                   "delta(carillon_storage_shard_committed_index{$of}[$__range] @ end())", "{{shard}}")),
        panel("Apply lag", "short", "Committed entries that a replica has not applied, of the replicas with most; and entries that no replica has applied.",
              highest(5, "carillon_storage_shard_apply_lag_entries", "shard, instance", "{{shard}} {{instance}}"),
              query("sum(max by (shard) (carillon_storage_shard_committed_index{$of})) - sum(max by (shard) (carillon_storage_shard_applied_index{$of}))", "not applied anywhere")),
        panel("Follower lag", "short", "Entries that the replica farthest behind lacks, of the shards with most; and replicas that do not answer.",
              highest(5, "carillon_storage_shard_follower_lag_entries", "shard", "{{shard}}"),
              query("sum(carillon_storage_shard_silent_replicas{$of})", "silent")),
    ]),
    ("Writes", [
        panel("Entries", "ops", "Raft entries proposed, by kind of shard.", rate("carillon_storage_proposals_total", "kind")),
        panel("Time to commit", "s", "From proposing an entry to its outcome: on disk on a majority, and applied on the leader.", *quantiles("carillon_storage_proposal_seconds")),
        panel("Commands in an entry", "short", "More commands in an entry cost less.", *quantiles("carillon_storage_proposal_commands")),
        panel("Flushes", "ops", "Flushes of the log.", rate("carillon_storage_log_flushes_total")),
        panel("Time of a flush", "s", "99th percentile of writing and syncing what waited, by node.", quantiles("carillon_storage_log_flush_seconds", by="instance")[1]),
        panel("Entries in a flush", "short", "More entries in a flush cost less.", *quantiles("carillon_storage_log_flush_entries")),
        panel("Applied", "ops", "Entries applied, by kind of shard.", rate("carillon_storage_applied_entries_total", "kind")),
        panel("Time to apply", "s", "Time to apply one batch of entries.", *quantiles("carillon_storage_apply_seconds")),
        panel("Refusals", "ops", "Requests refused by storage nodes, by why.", happened("carillon_storage_refusals_total", "why")),
    ]),
    ("Reads", [
        panel("Reads", "ops", "Reads answered, by kind of shard.", rate("carillon_storage_reads_total", "kind")),
        panel("Time of reads", "s", "Time to answer one batch of reads.", *quantiles("carillon_storage_read_seconds")),
        panel("Streams of routers", "short", "Streams that routers hold open.", gauge("carillon_storage_router_streams")),
    ]),
    ("Disk", [
        panel("Free space", "bytes", "Free on the disk of the data folder, of its whole size.",
              gauge("carillon_storage_disk_free_bytes", "{{instance}} free"), gauge("carillon_storage_disk_total_bytes", "{{instance}} size")),
        panel("Store", "bytes", "Size of the parts of the data folder.", query("sum by (part) (carillon_storage_store_bytes{$of})", "{{part}}")),
        panel("Log", "bytes", "The Raft log of all shards on disk, and the shards with most in it.",
              gauge("carillon_storage_log_bytes", "{{instance}}"), highest(3, "carillon_storage_shard_log_bytes", "shard", "{{shard}}")),
        panel("Trouble", "short", "1 while sends are refused because the disk is nearly full, or while the node can't keep up.",
              gauge("carillon_storage_disk_full", "{{instance}} full"), gauge("carillon_storage_slow", "{{instance}} slow"), top=1),
        queues("storage"), waiting("storage"),
    ]),
    ("Snapshots and moves", [
        panel("Snapshots", "short", "Snapshots built, sent and installed in ten minutes.", query("sum by (what) (increase(carillon_storage_snapshots_total{$of}[10m]))", "{{what}}")),
        panel("Time of a snapshot", "s", "99th percentile in an hour.",
              query("histogram_quantile(0.99, sum by (le, what) (rate(carillon_storage_snapshot_seconds_bucket{$of}[1h])))", "{{what}}", "no snapshot was made in the last hour")),
        panel("Size of a snapshot", "bytes", "99th percentile in an hour.",
              query("histogram_quantile(0.99, sum by (le) (rate(carillon_storage_snapshot_bytes_bucket{$of}[1h])))", "built", "no snapshot was made in the last hour")),
        panel("Replicas on the move", "short", "Replicas of the cluster that join or leave.",
              query("max by (state) (carillon_storage_cluster_replicas{$of})", "{{state}}")),
        panel("Snapshots sent", "Bps", "Bytes of snapshots sent to other nodes.", rate("carillon_storage_snapshot_sent_bytes_total")),
        panel("Nodes", "short", "Storage nodes by state.", query("max by (state) (carillon_storage_cluster_nodes{$of})", "{{state}}")),
    ]),
    ("Between nodes", [
        panel("Frames", "ops", "Raft frames sent to other nodes.", rate("carillon_storage_peer_frames_total")),
        panel("Lost connections", "ops", "Streams to other nodes that broke or could not be opened.", rate("carillon_storage_peer_disconnects_total")),
        panel("Level", "short", "The level of the cluster, and the highest that the programs can read.",
              query("min(carillon_storage_cluster_level{$of})", "cluster"), query("min(carillon_storage_program_level{$of})", "programs")),
    ]),
]  # fmt: skip

LOAD_TEST = [
    ("Throughput", [SENDS, SEND_LATENCY, DELIVERY_LATENCY]),
    ("Cost", [
        panel("CPU of a message", "s", "CPU time of all processes for each accepted message.",
              query(f"sum(rate(carillon_node_cpu_seconds_total{{$of}}[{RATE}])) / sum(rate(carillon_gateway_accepted_total{{$of}}[{RATE}]))", "all processes")),
        *PROCESSES[:2],
    ]),
    ("Stages of a message", [
        panel("99th percentile of each stage", "s", "From the send that a gateway has read to the acknowledgement of the device.",
              *[query(one["expr"], name) for name, one in (
                  ("received", quantiles("carillon_gateway_receive_latency_seconds")[1]),
                  ("flushed", quantiles("carillon_storage_log_flush_seconds")[1]),
                  ("applied", quantiles("carillon_storage_apply_seconds")[1]),
                  ("committed", quantiles("carillon_storage_proposal_seconds")[1]),
                  ("appended", quantiles("carillon_router_append_duration_seconds")[1]),
                  ("routed", quantiles("carillon_router_request_duration_seconds", 'op="send"')[1]),
                  ("accepted", quantiles("carillon_gateway_send_latency_seconds")[1]),
                  ("delivered", quantiles("carillon_gateway_delivery_latency_seconds")[1]),
                  ("acknowledged", quantiles("carillon_gateway_acknowledge_latency_seconds")[1]),
              )]),
        panel("Messages in an entry and a flush", "short", "Median commands in a Raft entry, and entries in a flush: batches grow with the load.",
              query(quantiles("carillon_storage_proposal_commands")[0]["expr"], "commands in an entry"),
              query(quantiles("carillon_storage_log_flush_entries")[0]["expr"], "entries in a flush")),
    ]),
    ("Overload", [
        panel("Refused", "ops", "What the service refuses, by tier.",
              query(f"sum(rate(carillon_gateway_refusals_total{{$of}}[{RATE}]))", "gateways"),
              query(f'sum(rate(carillon_router_requests_total{{$of,outcome=~"refused|overloaded|unavailable"}}[{RATE}]))', "routers"),
              query(f'sum(rate(carillon_storage_refusals_total{{$of,why=~"busy|full"}}[{RATE}]))', "storage nodes")),
        panel("The fullest queues", "percentunit", "How full the fullest queue of each kind is.",
              highest(5, "carillon_node_queue_fullest_ratio", "queue", "{{queue}}")),
    ]),
]  # fmt: skip

DASHBOARDS = {
    "overview": ("overview", OVERVIEW),
    "gateway": ("gateways", GATEWAY),
    "router": ("routers", ROUTER),
    "storage": ("storage and Raft", STORAGE),
    "load-test": ("load test", LOAD_TEST),
}
