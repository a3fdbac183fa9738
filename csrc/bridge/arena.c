/* arena.c: where a greenlet's Python frames live.
 *
 * CPython gives each greenlet a data stack in chunks of 16 KiB, mapped and unmapped anew:
 * 11 us to start and end a greenlet (measured, 3.14.7t), and a page fault on a page of its
 * own. So:
 *
 * root chunks   A worker greenlet begins with a first chunk of 2 KiB from here (stack_root),
 *               enough for about eight frames. Two of them share a page. They lie in 2 MiB
 *               regions; an empty region gives its memory back if there is another with
 *               room.
 * deeper G's    get ordinary chunks of 16 KiB from the interpreter, which asks its arena
 *               allocator (PyObject_SetArenaAllocator, public): it is replaced by a pool
 *               that keeps up to HOT freed ones.
 *
 * The interpreter (and greenlet, when one dies) frees chunks of both kinds through the
 * arena allocator with the size that stands in their header, so pool_free tells them
 * apart by it. */
#include <sys/mman.h>

#include "bridge.h"

enum { ROOT = 2048, REGION = 2 << 20, CHUNK = 16 * 1024, HOT = 1024, POPULATE = 64 * 1024 };

typedef struct block {
    struct block *next;
} block;

/* Stands in the first block of its region; REGION-aligned, so that a block finds it. */
typedef struct region {
    struct region *next, *prev; /* in the list of those with room */
    block *free;
    uint32_t nused;
    uint32_t carved; /* blocks ever given out; those above are untouched memory */
} region;

static PyObjectArenaAllocator before;
static mutex lock;
static region *with_room;
static block *hot; /* freed CHUNKs, linked through their own memory */
static uint32_t nhot;

/* ---------------------------------------------------------------- root chunks */

static void list_add(region *r) {
    r->prev = NULL;
    r->next = with_room;
    if (with_room) with_room->prev = r;
    with_room = r;
}

static void list_remove(region *r) {
    if (r->prev)
        r->prev->next = r->next;
    else
        with_room = r->next;
    if (r->next) r->next->prev = r->prev;
}

static region *region_new(void) {
    char *raw =
        mmap(NULL, 2 * REGION, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED) return NULL;
    char *base = (char *)(((uintptr_t)raw + REGION - 1) & ~(uintptr_t)(REGION - 1));
    if (base > raw) munmap(raw, (size_t)(base - raw));
    if (base + REGION < raw + 2 * REGION) munmap(base + REGION, (size_t)(raw + REGION - base));
    region *r = (region *)base;
    r->carved = 1; /* the header's block */
    return r;
}

static void *root_alloc(void) {
    mutex_lock(&lock);
    region *r = with_room;
    if (!r) {
        mutex_unlock(&lock);
        r = region_new();
        if (!r) return NULL;
        mutex_lock(&lock);
        list_add(r);
    }
    block *b = r->free;
    if (b)
        r->free = b->next;
    else {
        b = (block *)((char *)r + ROOT * r->carved++);
        /* One system call instead of 16 page faults; where there is no such advice (before
         * Linux 5.14), page faults it is. */
        if ((uintptr_t)b % POPULATE == 0) madvise(b, POPULATE, MADV_POPULATE_WRITE);
    }
    r->nused++;
    if (!r->free && r->carved == REGION / ROOT) list_remove(r);
    mutex_unlock(&lock);
    return b;
}

static void root_free(void *ptr) {
    region *r = (region *)((uintptr_t)ptr & ~(uintptr_t)(REGION - 1));
    block *b = ptr;
    mutex_lock(&lock);
    if (!r->free && r->carved == REGION / ROOT) list_add(r);
    b->next = r->free;
    r->free = b;
    r->nused--;
    bool drop = r->nused == 0 && (r->next || r->prev);
    if (drop) list_remove(r);
    mutex_unlock(&lock);
    if (drop) munmap(r, REGION);
}

void stack_root(PyThreadState *ts) {
    if (ts->datastack_chunk) return;
    _PyStackChunk *chunk = root_alloc();
    if (!chunk) return; /* the interpreter makes one itself, and says so if it can't */
    chunk->previous = NULL;
    chunk->size = ROOT;
    chunk->top = 0;
    ts->datastack_chunk = chunk;
    ts->datastack_top = &chunk->data[1]; /* the interpreter never pops a chunk whose base is in use */
    ts->datastack_limit = (PyObject **)((char *)chunk + ROOT);
}

/* ---------------------------------------------------------------- the arena allocator */

static void *pool_alloc(void *Py_UNUSED(ctx), size_t size) {
    if (size != CHUNK) return before.alloc(before.ctx, size);
    mutex_lock(&lock);
    block *b = hot;
    if (b) {
        hot = b->next;
        nhot--;
    }
    mutex_unlock(&lock);
    return b ? (void *)b : before.alloc(before.ctx, size);
}

static void pool_free(void *Py_UNUSED(ctx), void *ptr, size_t size) {
    if (size == ROOT) {
        root_free(ptr);
        return;
    }
    bool keep = false;
    if (size == CHUNK) {
        mutex_lock(&lock);
        keep = nhot < HOT;
        if (keep) {
            ((block *)ptr)->next = hot;
            hot = ptr;
            nhot++;
        }
        mutex_unlock(&lock);
    }
    if (!keep) before.free(before.ctx, ptr, size);
}

int arena_install(void) {
    PyObjectArenaAllocator mine = {NULL, pool_alloc, pool_free};
    PyObject_GetArenaAllocator(&before);
    if (before.alloc != pool_alloc) PyObject_SetArenaAllocator(&mine);
    return 0;
}
