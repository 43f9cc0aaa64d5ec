"""What a sample was spent on: the area of the innermost of its frames that is of one."""

import functools
import re

KERNEL, ALLOCATOR, OTHER = "kernel", "allocator", "other"

# The longest that fits counts. What is missing here, such as the standard library and `bytes`, works for its caller.
PATHS = {
    "gateway": ["carillon_gateway"],
    "router": ["carillon_router"],
    "storage": ["carillon_storage"],
    "proto: ids, keys, ring": ["carillon_proto"],
    "node": ["carillon"],
    "timeline engine": [
        *("fjall", "lsm_tree", "crossbeam_skiplist", "crossbeam_epoch", "byteview", "quick_cache", "sfa"),
        *("xxhash_rust", "carillon_storage::engine::fjall"),
    ],
    "directory engine": ["sled", "pagecache", "carillon_storage::engine::sled"],
    "raft log": ["raft_engine", "protobuf", "carillon_storage::log"],
    "openraft": ["openraft", "openraft_rt", "openraft_rt_tokio"],
    "protobuf": ["prost", "tonic_prost", "tonic::codec::buffer", "carillon_proto::pb"],
    "HTTP/2": ["h2", "hyper", "hyper_util", "tonic", "tower", "http", "http_body", "http_body_util"],
    "HTTP of the admin listener": ["axum", "axum_core", "matchit"],
    "TLS and credentials": ["rustls", "tokio_rustls", "ring", "jsonwebtoken", "sha2", "hmac", "pbkdf2"],
    "WebSocket": ["tungstenite", "tokio_tungstenite"],
    "metrics and traces": ["metrics", "metrics_util", "metrics_exporter_prometheus", "quanta", "tracing"]
    + ["tracing_core", "tracing_subscriber", "tracing_opentelemetry", "opentelemetry", "opentelemetry_sdk"],
    "tokio": ["tokio", "mio"],
}
AREA_OF = {path: area for area, paths in PATHS.items() for path in paths}

# Wrappers around any future: their own time is that of what was inlined into them.
WRAPPERS = re.compile(r"tracing::instrument::Instrumented<|tokio::task::coop::Coop<")
PATH = re.compile(r"(?<![\w:])[a-z_]\w*(?:::\w+)+")
ALLOCATING = re.compile(r"_?mi_\w+|malloc|calloc|realloc|free|cfree")

# Of a kernel function the first that fits counts.
OF_KERNEL = [
    ("disk", r"ext4|xfs_|btrfs|jbd2|iomap|blk|bio(_|$)|block_|virtio|virtqueue|vp_notify|iowrite|nvme|scsi|dm_|fsync"),
    ("disk", r"sync_|filemap|writepage|writeback|folio_(wait|end)|generic_perform_write|copy_folio_from_iter|buffer"),
    ("disk", r"file_write|pwrite"),
    ("network", r"tcp|udp|ip_|ip6|inet|sock|skb|sk_|netif|napi|net_|dev_(hard|queue)|loopback|backlog|unix_|eth_|nf_"),
    ("memory", r"clear_page|fault|handle_mm|anon|pmd|pte|folio|page|rmqueue|madvise|mmap|unmap|zap_|mas_|vma|lru|slab"),
    ("memory", r"kmalloc|kmem|brk|mprotect|tlb"),
    ("scheduling", r"sched|futex|wake|eventfd|epoll|ep_|switch|hrtimer|sleep|pick_next|queue_task|plist|rcu"),
    ("scheduling", r"exit_to_user"),
]
OF_KERNEL = [(area, re.compile(rf"(^|_)({pattern})")) for area, pattern in OF_KERNEL]


def of(frames, without=()):
    """Of frames from the innermost on."""
    inside_kernel = False
    for frame in frames:
        area = of_frame(frame.symbol, frame.file)
        if inside_kernel and not frame.in_kernel() and KERNEL not in without:
            return f"{KERNEL}: other"
        inside_kernel = frame.in_kernel()
        if area and area.partition(":")[0] not in without:
            return area
    return f"{KERNEL}: other" if inside_kernel and KERNEL not in without else OTHER


def of_caller(frames):
    """The same for whom kernel and allocator work."""
    return of(frames, without=(KERNEL, ALLOCATOR))


@functools.cache
def of_frame(symbol, file):
    if file.startswith("[kernel"):
        return next((f"{KERNEL}: {area}" for area, pattern in OF_KERNEL if pattern.search(symbol)), None)
    if ALLOCATING.fullmatch(symbol.partition(".")[0].partition("@")[0]):
        return ALLOCATOR
    if WRAPPERS.search(symbol):
        return None
    return next(filter(None, map(of_path, PATH.findall(symbol))), None)


def of_function(symbol):
    """The area of a function; None if it works for its caller."""
    area = of_frame(symbol, "")
    return area if area != ALLOCATOR else None


def of_path(path):
    while path:
        if path in AREA_OF:
            return AREA_OF[path]
        path = path.rpartition("::")[0]
