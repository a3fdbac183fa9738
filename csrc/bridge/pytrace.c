/* pytrace.c: names for the trace. The core's events carry numbers; here is the table that says
 * which string each number is: entry functions of G's, names that G's were given, regions,
 * messages. gmpy_rt/trace.py starts and stops, through cffi. */
#include "bridge.h"

#ifdef Py_GIL_DISABLED
extern void _PyEval_StopTheWorld(PyInterpreterState *interp);
extern void _PyEval_StartTheWorld(PyInterpreterState *interp);
#endif

/* A message may be new each time: beyond so many strings they are FULL. */
enum { MAX_NAMES = 1 << 20, FULL = 1 };

static PyObject *names; /* str -> int, of one trace */
static _Atomic uint32_t next_name = FULL + 1;

/* New references: the table may be taken away at any time. */
#if PY_VERSION_HEX >= 0x030D0000
static PyObject *find_name(PyObject *name) {
    PyObject *known = NULL;
    return PyDict_GetItemRef(names, name, &known) < 0 ? NULL : known;
}
static PyObject *set_name(PyObject *name, PyObject *number) {
    PyObject *known = NULL;
    return PyDict_SetDefaultRef(names, name, number, &known) < 0 ? NULL : known;
}
#else
static PyObject *find_name(PyObject *name) { return Py_XNewRef(PyDict_GetItemWithError(names, name)); }
static PyObject *set_name(PyObject *name, PyObject *number) {
    return Py_XNewRef(PyDict_SetDefault(names, name, number));
}
#endif

/* The number of a string; 0 without a name or memory. */
static uint32_t number_of(PyObject *name) {
    if (!name) {
        PyErr_Clear();
        return 0;
    }
    PyObject *known = find_name(name);
    if (!known) {
        if (PyErr_Occurred() || load_relaxed(&next_name) >= MAX_NAMES) {
            PyErr_Clear();
            return FULL;
        }
        /* Two threads may both come here: the first one's number counts, the other isn't used. */
        PyObject *fresh = PyLong_FromUnsignedLong(atomic_fetch_add(&next_name, 1));
        known = fresh ? set_name(name, fresh) : NULL;
        Py_XDECREF(fresh);
        if (!known) {
            PyErr_Clear();
            return 0;
        }
    }
    uint32_t number = (uint32_t)PyLong_AsUnsignedLong(known);
    Py_DECREF(known);
    return number;
}

uint32_t trace_name_of(PyObject *fn) {
    if (PyMethod_Check(fn)) fn = PyMethod_GET_FUNCTION(fn);
    PyObject *name = PyObject_GetAttrString(fn, "__qualname__");
    if (!name || !PyUnicode_Check(name)) {
        PyErr_Clear();
        Py_XSETREF(name, PyUnicode_FromString(Py_TYPE(fn)->tp_name));
    }
    uint32_t number = number_of(name);
    Py_XDECREF(name);
    return number;
}

void trace_renamed(PyG *self, PyObject *name) { trace_emit(TRACE_NAME, self->gp->id, 1, number_of(name), 0); }

/* ---------------------------------------------------------------- G's that lived before */

typedef struct {
    PyG *g;
    PyObject *fn;
    bool runnable;
} living;

static uint32_t find_living(living *all, uint32_t max) {
    uint32_t n = 0, slots = g_slots();
#ifdef Py_GIL_DISABLED
    /* Another M may be at the end of a G and drop its function just now. As in pydump.c:
     * nothing is allocated or locked meanwhile. */
    PyInterpreterState *interp = PyInterpreterState_Get();
    _PyEval_StopTheWorld(interp);
#endif
    for (uint32_t i = 0; i < slots && n < max; i++) {
        g *gp = g_at(i);
        PyG *self = gp->host;
        uint32_t status = g_status(gp);
        if (status == G_IDLE || !self) continue;
        all[n].g = (PyG *)Py_NewRef((PyObject *)self);
        all[n].fn = Py_XNewRef(self->fn);
        all[n++].runnable = status == G_RUNNABLE;
    }
#ifdef Py_GIL_DISABLED
    _PyEval_StartTheWorld(interp);
#endif
    return n;
}

static PyObject *living_item(void *all, uint32_t i) {
    living *one = (living *)all + i;
    PyG *self = one->g;
    PyObject *name = NULL, *item = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    name = Py_XNewRef(self->name);
    Py_END_CRITICAL_SECTION();
    if (!name && one->fn) name = PyObject_GetAttrString(one->fn, "__qualname__");
    if (!name) {
        PyErr_Clear();
        name = PyUnicode_FromString(one->fn ? Py_TYPE(one->fn)->tp_name : "G");
    }
    if (name) item = Py_BuildValue("(KNi)", (unsigned long long)self->gp->id, name, (int)one->runnable);
    Py_XDECREF(one->fn);
    Py_DECREF((PyObject *)self);
    return item;
}

/* trace_living() -> [(id, name, runnable), ...] */
static PyObject *door_trace_living(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    uint32_t max = g_slots();
    living *all = malloc((max + 1) * sizeof *all);
    if (!all) return PyErr_NoMemory();
    PyObject *list = list_from(all, find_living(all, max), living_item);
    free(all);
    return list;
}

/* ---------------------------------------------------------------- regions, logs */

static void mark(enum trace_type type, uint64_t arg) {
    g *gp = current_g();
    uint64_t who = gp ? gp->id : trace_who();
    if (who) trace_event(type, who, arg);
}

/* trace_mark(kind, name) -> bool: whether it is traced. kind: 0 region, 1 blocking call; + 2: end. */
static PyObject *door_trace_mark(PyObject *Py_UNUSED(module), PyObject *args) {
    static const enum trace_type types[] = {TRACE_REGION, TRACE_BLOCKING, TRACE_REGION_END,
                                            TRACE_BLOCKING_END};
    unsigned kind;
    PyObject *name;
    if (!PyArg_ParseTuple(args, "IU", &kind, &name)) return NULL;
    if (!tracing()) Py_RETURN_FALSE;
    mark(types[kind % 4], number_of(name));
    Py_RETURN_TRUE;
}

static PyObject *door_trace_log(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *category, *message;
    if (!PyArg_ParseTuple(args, "UU", &category, &message)) return NULL;
    if (tracing()) mark(TRACE_LOG, (uint64_t)number_of(category) << 32 | number_of(message));
    Py_RETURN_NONE;
}

static PyObject *door_tracing(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    return PyBool_FromLong(tracing());
}

/* trace_names() -> {name: number} of the trace that has ended; the next one begins anew. */
static PyObject *door_trace_names(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    PyObject *copy = PyDict_Copy(names);
    PyDict_Clear(names);
    store_relaxed(&next_name, FULL + 1);
    return copy;
}

static PyMethodDef methods[] = {
    {"trace_living", door_trace_living, METH_NOARGS, NULL},
    {"trace_mark", door_trace_mark, METH_VARARGS, NULL},
    {"trace_log", door_trace_log, METH_VARARGS, NULL},
    {"trace_names", door_trace_names, METH_NOARGS, NULL},
    {"tracing", door_tracing, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

int pytrace_init(PyObject *module) {
    names = PyDict_New();
    return names ? PyModule_AddFunctions(module, methods) : -1;
}
