"""What one engine's radix cache holds: prompts as runs of block ids, least recently used out first.

Like SGLang's tree it shares common leading runs, locks what running requests use, and evicts
unlocked leaves. Ignores: generated tokens, whose block ids a trace does not give, are not cached.
"""

from heapq import heappop, heappush

Blocks = tuple[int, ...]


class Node:
    """A run of blocks below its parent. locks: requests that use it or something below it."""

    __slots__ = ("children", "key", "last_use", "locks", "parent", "tokens")

    def __init__(self, parent: "Node | None", key: Blocks, tokens: int, last_use: int) -> None:
        self.parent = parent
        self.key = key
        self.tokens = tokens
        self.last_use = last_use
        self.locks = 0
        self.children: dict[int, Node] = {}


class PrefixCache:
    """A radix tree over block ids. total_tokens: held; locked_tokens: of these, in use."""

    __slots__ = ("_leaves", "_root", "_tick", "block_tokens", "locked_tokens", "total_tokens")

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.total_tokens = 0
        self.locked_tokens = 0
        self._root = Node(None, (), 0, 0)
        self._leaves: list[tuple[int, int, Node]] = []
        self._tick = 0

    def match(self, blocks: Blocks) -> tuple[Node, int]:
        """The deepest node whose run leads `blocks`, and how many blocks that covers."""
        self._tick += 1
        return self._walk(self._root, blocks, 0)

    def extend(self, node: Node, blocks: Blocks, covered: int, tokens: int) -> tuple[Node, int]:
        """Hold `blocks` below `node`, which covers the first `covered` and is locked by the caller.

        tokens: of blocks[covered:]. The caller's lock moves down to the node returned; the tokens
        returned are those that were already here, computed twice.
        """
        self._tick += 1
        last, reached = self._walk(node, blocks, covered)
        known = min((reached - covered) * self.block_tokens, tokens)
        if reached < len(blocks):
            leaf = Node(last, blocks[reached:], tokens - known, self._tick)
            last.children[blocks[reached]] = leaf
            self.total_tokens += tokens - known
            last = leaf
        below: Node | None = last
        while below is not node and below is not None:
            if not below.locks:
                self.locked_tokens += below.tokens
            below.locks += 1
            below = below.parent
        return last, known

    def lock(self, node: Node) -> int:
        """Keep a node and all above it; returns the tokens that nobody else kept."""
        newly = 0
        at: Node | None = node
        while at is not None:
            if not at.locks:
                newly += at.tokens
            at.locks += 1
            at = at.parent
        self.locked_tokens += newly
        return newly

    def unlock(self, node: Node) -> None:
        """Undo one `lock`."""
        at: Node | None = node
        while at is not None:
            at.locks -= 1
            if not at.locks:
                self.locked_tokens -= at.tokens
                if not at.children:
                    heappush(self._leaves, (at.last_use, id(at), at))
            at = at.parent

    def evict(self, tokens: int) -> None:
        """Forget the least recently used unlocked leaves until `tokens` are free."""
        leaves = self._leaves
        while tokens > 0 and leaves:
            last_use, _, node = heappop(leaves)
            parent = node.parent
            if parent is None or node.locks or node.children or node.last_use != last_use:
                continue
            tokens -= node.tokens
            self.total_tokens -= node.tokens
            del parent.children[node.key[0]]
            node.parent = None
            if not parent.locks and not parent.children:
                heappush(leaves, (parent.last_use, id(parent), parent))

    def _walk(self, node: Node, blocks: Blocks, at: int) -> tuple[Node, int]:
        tick = self._tick
        end = len(blocks)
        while at < end:
            child = node.children.get(blocks[at])
            if child is None:
                break
            key = child.key
            length = len(key)
            if length > 1 and blocks[at : at + length] != key:
                common = _common(key, blocks, at)
                return self._split(child, common, tick), at + common
            child.last_use = tick
            node = child
            at += length
        return node, at

    def _split(self, node: Node, length: int, tick: int) -> Node:
        """Cut a node's first `length` blocks into a parent of their own, and return that."""
        parent = node.parent
        assert parent is not None
        tokens = length * self.block_tokens
        head = Node(parent, node.key[:length], tokens, tick)
        head.locks = node.locks
        head.children[node.key[length]] = node
        parent.children[node.key[0]] = head
        node.parent = head
        node.key = node.key[length:]
        node.tokens -= tokens
        return head


def _common(key: Blocks, blocks: Blocks, at: int) -> int:
    """How many leading blocks of `key` stand in `blocks` from `at` on."""
    length = 0
    for mine, theirs in zip(key, blocks[at : at + len(key)], strict=False):
        if mine != theirs:
            break
        length += 1
    return length
