/* stack.c: noting stacks, and adding up samples. See stack.h. */
#include <patchlevel.h>
#include <pyconfig.h>

#ifdef Py_GIL_DISABLED
#define Py_BUILD_CORE 1
#endif

#include "stack.h"

#ifdef Py_GIL_DISABLED
#include "internal/pycore_frame.h"
#include "internal/pycore_interpframe.h"
#include "internal/pycore_tstate.h"

extern void _PyEval_StopTheWorld(PyInterpreterState *interp);
extern void _PyEval_StartTheWorld(PyInterpreterState *interp);
#endif

/* ---------------------------------------------------------------- stacks */

#ifdef Py_GIL_DISABLED
void world_stop(void) { _PyEval_StopTheWorld(PyInterpreterState_Get()); }
void world_start(void) { _PyEval_StartTheWorld(PyInterpreterState_Get()); }

static void note_frames(stack *s, _PyInterpreterFrame *f) {
    s->n = 0;
    for (; f && s->n < STACK_DEPTH; f = f->previous) {
        if (f->owner >= FRAME_OWNED_BY_INTERPRETER || _PyFrame_IsIncomplete(f)) continue;
        s->code[s->n] = PyUnstable_InterpreterFrame_GetCode(f);
        s->lasti[s->n++] = PyUnstable_InterpreterFrame_GetLasti(f);
    }
}

void stack_of_thread(stack *s, PyThreadState *ts) { note_frames(s, ts->current_frame); }

static void stack_of_parked(stack *s, g *gp) { note_frames(s, gp->frame); }
static bool is_parked(g *gp) { return gp->frame; }
#else
void world_stop(void) {}
void world_start(void) {}

static void note_frames(stack *s, PyFrameObject *f) {
    s->n = 0;
    while (f && s->n < STACK_DEPTH) {
        s->code[s->n] = (PyObject *)PyFrame_GetCode(f);
        s->lasti[s->n++] = PyFrame_GetLasti(f);
        PyFrameObject *back = PyFrame_GetBack(f);
        Py_DECREF(f);
        f = back;
    }
    Py_XDECREF(f);
}

void stack_of_thread(stack *s, PyThreadState *ts) {
    /* Frame objects are made here; before 3.12 that may start the collector, and so run code. */
    int on = PyGC_Disable();
    note_frames(s, PyThreadState_GetFrame(ts));
    if (on) PyGC_Enable();
}

static void stack_of_parked(stack *s, g *gp) {
    int on = PyGC_Disable();
    PyObject *frame = PyObject_GetAttrString(host_g(gp)->greenlet, "gr_frame");
    if (!frame) PyErr_Clear();
    s->n = 0;
    if (frame && PyFrame_Check(frame))
        note_frames(s, (PyFrameObject *)frame);
    else
        Py_XDECREF(frame);
    if (on) PyGC_Enable();
}
static bool is_parked(g *gp) { return host_g(gp)->greenlet; }
#endif

void stack_of_g(stack *s, g *gp) {
    s->n = 0;
    if (is_parked(gp)) {
        stack_of_parked(s, gp);
        return;
    }
    /* It runs, or its M sleeps on its stack with nothing else to run. */
    m *mp = load_relaxed(&gp->m);
    mhost *h = mp && load_relaxed(&mp->cur) == gp ? load_acquire(&mp->host) : NULL;
    if (h && h->tstate) stack_of_thread(s, h->tstate);
}

void stack_drop(stack *s) {
    for (int i = 0; i < s->n; i++) Py_DECREF(s->code[i]);
    s->n = 0;
}

/* ---------------------------------------------------------------- the table */

enum { TABLE_SLOTS = 4096 };

struct bucket {
    bucket *next;
    uint64_t hash;
    labels l;
    double count, value; /* under the table's lock; the rest is never written again */
    int n;
    struct {
        PyObject *code;
        int lasti;
    } frame[];
};

static uint64_t mix(uint64_t h, uint64_t v) {
    h = (h ^ v) * 0x9E3779B97F4A7C15ULL;
    return h ^ h >> 29;
}

static uint64_t hash_of(const labels *l, const stack *s) {
    uint64_t h = mix((uintptr_t)l->state, (uintptr_t)l->name);
    h = mix(mix(h, l->g), (uint64_t)(uint32_t)l->m << 32 | (uint32_t)l->p);
    for (int i = 0; s && i < s->n; i++) h = mix(mix(h, (uintptr_t)s->code[i]), (uint64_t)s->lasti[i]);
    return h;
}

static bool same(const bucket *b, uint64_t hash, const labels *l, const stack *s) {
    if (b->hash != hash || b->n != (s ? s->n : 0) || b->l.state != l->state || b->l.name != l->name ||
        b->l.g != l->g || b->l.m != l->m || b->l.p != l->p)
        return false;
    for (int i = 0; i < b->n; i++)
        if (b->frame[i].code != s->code[i] || b->frame[i].lasti != s->lasti[i]) return false;
    return true;
}

static bucket *find(stacktab *t, uint64_t hash, const labels *l, const stack *s) {
    bucket *b = t->slot ? t->slot[hash % TABLE_SLOTS] : NULL;
    while (b && !same(b, hash, l, s)) b = b->next;
    return b;
}

static bucket *new_bucket(uint64_t hash, const labels *l, const stack *s) {
    int n = s ? s->n : 0;
    bucket *b = malloc(sizeof *b + (size_t)n * sizeof *b->frame);
    if (!b) return NULL;
    *b = (bucket){.hash = hash, .l = *l, .n = n};
    Py_XINCREF(b->l.name);
    for (int i = 0; i < n; i++) {
        b->frame[i].code = Py_NewRef(s->code[i]);
        b->frame[i].lasti = s->lasti[i];
    }
    return b;
}

static void free_bucket(bucket *b) {
    if (!b) return;
    Py_XDECREF(b->l.name);
    for (int i = 0; i < b->n; i++) Py_DECREF(b->frame[i].code);
    free(b);
}

/* Adds to the bucket that is there, or to `fresh` (NULL: only looks). Whether it could. */
static bool add_to(stacktab *t, bucket *fresh, uint64_t hash, const labels *l, const stack *s, double count,
                   double value, bool *used) {
    mutex_lock(&t->lock);
    bucket *b = find(t, hash, l, s);
    if (!b && fresh && t->slot && t->n < t->max) {
        b = fresh;
        b->next = t->slot[hash % TABLE_SLOTS];
        t->slot[hash % TABLE_SLOTS] = b;
        t->n++;
        *used = true;
    }
    if (b) {
        b->count += count;
        b->value += value;
    }
    mutex_unlock(&t->lock);
    return b;
}

void stacktab_add(stacktab *t, const labels *l, const stack *s, double count, double value) {
    uint64_t hash = hash_of(l, s);
    bool used = false;
    if (add_to(t, NULL, hash, l, s, count, value, &used)) return;
    /* Allocated outside the lock, as are all slots of a new table. */
    if (!__atomic_load_n(&t->slot, __ATOMIC_ACQUIRE)) {
        bucket **slot = calloc(TABLE_SLOTS, sizeof *slot);
        mutex_lock(&t->lock);
        if (!t->slot) {
            __atomic_store_n(&t->slot, slot, __ATOMIC_RELEASE);
            slot = NULL;
        }
        mutex_unlock(&t->lock);
        free(slot);
    }
    bucket *fresh = new_bucket(hash, l, s);
    if (!add_to(t, fresh, hash, l, s, count, value, &used)) {
        mutex_lock(&t->lock);
        t->dropped += count;
        t->dropped_value += value;
        mutex_unlock(&t->lock);
    }
    if (!used) free_bucket(fresh);
}

static PyObject *frames_of(const bucket *b) {
    PyObject *frames = PyTuple_New(b->n);
    for (int i = 0; frames && i < b->n; i++) {
        int line = PyCode_Addr2Line((PyCodeObject *)b->frame[i].code, b->frame[i].lasti);
        PyObject *at = Py_BuildValue("(Oi)", b->frame[i].code, line);
        if (!at) {
            Py_CLEAR(frames);
            break;
        }
        PyTuple_SET_ITEM(frames, i, at);
    }
    return frames;
}

static PyObject *read_bucket(const bucket *b, double count, double value) {
    PyObject *frames = frames_of(b);
    if (!frames) return NULL;
    return Py_BuildValue("(zOKiiddN)", b->l.state, b->l.name ? b->l.name : Py_None,
                         (unsigned long long)b->l.g, (int)b->l.m, (int)b->l.p, count, value, frames);
}

typedef struct {
    bucket *b;
    double count, value;
} entry;

PyObject *stacktab_read(stacktab *t) {
    /* Buckets stay: under the lock it is enough to note which there are, and their sums. */
    uint32_t n = 0, max = t->max;
    entry *all = malloc((size_t)(max ? max : 1) * sizeof *all);
    if (!all) return PyErr_NoMemory();
    mutex_lock(&t->lock);
    for (uint32_t i = 0; t->slot && i < TABLE_SLOTS; i++)
        for (bucket *b = t->slot[i]; b && n < max; b = b->next) all[n++] = (entry){b, b->count, b->value};
    mutex_unlock(&t->lock);
    PyObject *list = PyList_New(n);
    for (uint32_t i = 0; list && i < n; i++) {
        PyObject *one = read_bucket(all[i].b, all[i].count, all[i].value);
        if (one)
            PyList_SET_ITEM(list, i, one);
        else
            Py_CLEAR(list);
    }
    free(all);
    return list;
}

void stacktab_fini(stacktab *t) {
    for (uint32_t i = 0; t->slot && i < TABLE_SLOTS; i++)
        for (bucket *b = t->slot[i], *next; b; b = next) {
            next = b->next;
            free_bucket(b);
        }
    free(t->slot);
    t->slot = NULL;
    t->n = 0;
}
