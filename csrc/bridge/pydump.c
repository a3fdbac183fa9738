/* pydump.c: what every G does at one moment, for gmpy_rt/dump.py.
 *
 * On a free-threaded build the world is stopped for the look: every other thread stands at
 * a safe point, so its frames and those of its parked G's stand still. Nothing is allocated
 * and nothing is locked meanwhile: a stopped thread may hold any lock. Codes and offsets are
 * noted, with references; lines and names are worked out afterwards.
 *
 * With the GIL, holding it is enough, and dump.py reads the frame objects. */
#include <patchlevel.h>
#include <pyconfig.h>

#ifdef Py_GIL_DISABLED
#define Py_BUILD_CORE 1
#endif

#include "bridge.h"

#ifdef Py_GIL_DISABLED
#include "internal/pycore_frame.h"
#include "internal/pycore_interpframe.h"
#include "internal/pycore_tstate.h"

extern void _PyEval_StopTheWorld(PyInterpreterState *interp);
extern void _PyEval_StartTheWorld(PyInterpreterState *interp);
#endif

enum { DEPTH = 48 };

typedef struct {
    PyG *g;
    PyObject *waits_for; /* look */
    uint32_t m;          /* look_running */
    unsigned long ident; /* of its thread, as in threading.get_ident() */
    int n;
    PyObject *code[DEPTH];
    int lasti[DEPTH];
} seen;

#ifdef Py_GIL_DISABLED
static void note_frames(seen *s, _PyInterpreterFrame *f) {
    for (; f && s->n < DEPTH; f = f->previous) {
        if (f->owner >= FRAME_OWNED_BY_INTERPRETER || _PyFrame_IsIncomplete(f)) continue;
        s->code[s->n] = PyUnstable_InterpreterFrame_GetCode(f);
        s->lasti[s->n++] = PyUnstable_InterpreterFrame_GetLasti(f);
    }
}

static void note_stack(seen *s, g *gp) {
    if (g_status(gp) == G_RUNNABLE && !load_relaxed(&gp->m)) return;
    if (gp->frame) {
        note_frames(s, gp->frame);
        return;
    }
    m *mp = load_relaxed(&gp->m);
    mhost *h = mp && load_relaxed(&mp->cur) == gp ? load_relaxed(&mp->host) : NULL;
    if (h && h->tstate) note_frames(s, h->tstate->current_frame);
}
#endif

static uint32_t look(seen *all, uint32_t max) {
    uint32_t n = 0, slots = g_slots();
#ifdef Py_GIL_DISABLED
    PyInterpreterState *interp = PyInterpreterState_Get();
    _PyEval_StopTheWorld(interp);
#endif
    for (uint32_t i = 0; i < slots && n < max; i++) {
        g *gp = g_at(i);
        PyG *self = gp->host; /* with the runtime's reference as long as it is there */
        if (g_status(gp) == G_IDLE || !self) continue;
        seen *s = &all[n++];
        s->g = (PyG *)Py_NewRef((PyObject *)self);
        s->waits_for = Py_XNewRef(self->waits_for);
        s->n = 0;
#ifdef Py_GIL_DISABLED
        note_stack(s, gp);
#endif
    }
#ifdef Py_GIL_DISABLED
    _PyEval_StartTheWorld(interp);
#endif
    return n;
}

static PyObject *stack_of(seen *s) {
    PyObject *stack = PyList_New(s->n);
    for (int i = 0; i < s->n; i++) {
        PyObject *at = stack ? Py_BuildValue("(Oi)", s->code[i], s->lasti[i]) : NULL;
        Py_DECREF(s->code[i]);
        if (at)
            PyList_SET_ITEM(stack, i, at);
        else
            Py_CLEAR(stack);
    }
    return stack;
}

PyObject *list_from(void *all, uint32_t n, PyObject *(*item)(void *all, uint32_t i)) {
    PyObject *list = PyList_New(n);
    for (uint32_t i = 0; i < n; i++) {
        PyObject *one = item(all, i);
        if (one && list)
            PyList_SET_ITEM(list, i, one);
        else {
            Py_XDECREF(one);
            Py_CLEAR(list);
        }
    }
    return list;
}

static PyObject *look_item(void *all, uint32_t i) {
    seen *s = (seen *)all + i;
    PyObject *stack = stack_of(s), *waits_for = s->waits_for ? s->waits_for : Py_None, *one = NULL;
    if (stack) one = Py_BuildValue("(OON)", s->g, waits_for, stack);
    Py_DECREF((PyObject *)s->g);
    Py_XDECREF(s->waits_for);
    return one;
}

/* look(max) -> [(G, what it waits for or None, [(code, offset), ...] innermost first), ...] */
static PyObject *door_look(PyObject *Py_UNUSED(module), PyObject *arg) {
    unsigned long max = PyLong_AsUnsignedLong(arg);
    if (max == (unsigned long)-1 && PyErr_Occurred()) return NULL;
    uint32_t slots = g_slots();
    if (max > slots) max = slots;
    seen *all = malloc((max ? max : 1) * sizeof *all);
    if (!all) return PyErr_NoMemory();
    uint32_t n = look(all, (uint32_t)max);
    PyObject *list = list_from(all, n, look_item);
    free(all);
    return list;
}

/* ---------------------------------------------------------------- only those that run
 *
 * The same for the one g of each M that runs, which may block: as cheap as there are few M's,
 * however many g's there are. The pause is that of stopping the world, some 10 us; longer if a
 * thread is in C code that keeps the interpreter. */

static bool look_m(m *mp, seen *s) {
    g *gp = load_acquire(&mp->cur);
    mhost *h = load_acquire(&mp->host);
    if (!gp || !h || !h->tstate || g_status(gp) != G_RUNNING || load_acquire(&gp->m) != mp || !gp->host)
        return false;
    s->g = (PyG *)Py_NewRef((PyObject *)gp->host);
    s->m = mp->id;
    s->ident = (unsigned long)mp->thread;
    s->n = 0;
#ifdef Py_GIL_DISABLED
    note_frames(s, h->tstate->current_frame);
#endif
    return true;
}

static uint32_t look_ms(seen *all, uint32_t max) {
    uint32_t n = 0;
#ifdef Py_GIL_DISABLED
    PyInterpreterState *interp = PyInterpreterState_Get();
    _PyEval_StopTheWorld(interp);
#endif
    if (sched_look()) {
        for (uint32_t i = 0; i < max; i++) {
            m *mp = load_acquire(&S.allm[i]);
            if (mp && look_m(mp, &all[n])) n++;
        }
        sched_look_end();
    }
#ifdef Py_GIL_DISABLED
    _PyEval_StartTheWorld(interp);
#endif
    return n;
}

static PyObject *look_running_item(void *all, uint32_t i) {
    seen *s = (seen *)all + i;
    PyObject *stack = stack_of(s), *one = NULL;
    if (stack) one = Py_BuildValue("(IOkN)", s->m, s->g, s->ident, stack);
    Py_DECREF((PyObject *)s->g);
    return one;
}

/* look_running() -> [(M's number, G, ident of the thread, [(code, offset), ...]), ...]
 * With the GIL the list of places is empty: sys._current_frames() has them. */
static PyObject *door_look_running(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    uint32_t max = load_relaxed(&S.nm);
    if (max > MAX_M) max = MAX_M;
    seen *all = malloc((max ? max : 1) * sizeof *all);
    if (!all) return PyErr_NoMemory();
    uint32_t n = look_ms(all, max);
    PyObject *list = list_from(all, n, look_running_item);
    free(all);
    return list;
}

static PyMethodDef methods[] = {{"look", door_look, METH_O, NULL},
                                {"look_running", door_look_running, METH_NOARGS, NULL},
                                {NULL, NULL, 0, NULL}};

int pydump_init(PyObject *module) { return PyModule_AddFunctions(module, methods); }
