/* pychan.c: Chan and select as Python sees them. A value in a channel is a strong
 * reference on its way from the sender to the receiver. */
#include "bridge.h"

typedef struct {
    PyObject_HEAD
    PyObject *weakrefs;
    chan c;
    bool grows; /* try_send() makes room: under SimpleQueue */
} PyChan;

static PyTypeObject *Chan_Type;

static PyObject *chan_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"capacity", NULL};
    Py_ssize_t cap = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|n:Chan", names, &cap)) return NULL;
    if (cap < 0 || cap > (1 << 30)) {
        PyErr_Format(PyExc_ValueError, "capacity=%zd: a channel holds 0 (unbuffered) to 2**30 values", cap);
        return NULL;
    }
    PyChan *self = (PyChan *)type->tp_alloc(type, 0);
    if (self && !chan_init(&self->c, (uint32_t)cap)) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

enum closed_op { SEND, RECV, CLOSE };

static PyObject *closed_error(enum closed_op op) {
    static const char *const texts[] = {
        [SEND] = "send on a closed channel; only its senders should close it, when they have sent all",
        [RECV] = "recv from a closed channel, which has no more values; `for value in channel` ends there",
        [CLOSE] = "close of a closed channel; one of its senders should close it, once",
    };
    PyErr_SetString(ChanClosed, texts[op]);
    return NULL;
}

/* The same in a select: its `case` tells which one that was. */
static PyObject *closed_case(int i, bool sending) {
    closed_error(sending ? SEND : RECV);
    PyObject *exc = take_exception();
    PyObject *text = PyUnicode_FromFormat("select case %d: %S", i, exc), *index = PyLong_FromLong(i);
    PyObject *args = text ? PyTuple_Pack(1, text) : NULL;
    if (args && index && PyObject_SetAttrString(exc, "args", args) == 0 &&
        PyObject_SetAttrString(exc, "case", index) == 0)
        PyErr_SetObject(ChanClosed, exc);
    Py_XDECREF(text);
    Py_XDECREF(index);
    Py_XDECREF(args);
    Py_XDECREF(exc);
    return NULL;
}

/* send/recv share: method(value?, timeout=None). -1 with an exception set. */
static int parse_timeout(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, Py_ssize_t npos,
                         PyObject **timeout, const char *name) {
    Py_ssize_t nkw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    *timeout = NULL;
    if (nargs == npos + 1 && nkw == 0)
        *timeout = args[npos];
    else if (nargs == npos && nkw == 1 &&
             PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), "timeout") == 0)
        *timeout = args[npos];
    else if (nargs != npos || nkw) {
        PyErr_Format(PyExc_TypeError, "%s() takes %sand an optional timeout", name,
                     npos ? "a value " : "nothing ");
        return -1;
    }
    return 0;
}

/* 0, or -1 with an exception set; the channel was full. Steals value. */
static out_of_line int send_slowly(PyChan *self, PyObject *value, PyObject *timeout) {
    int64_t deadline = timeout ? deadline_from(timeout) : 0;
    if (deadline == -1) goto fail;
    if (deadline == -2) goto timed_out;
    seat s;
    if (seat_take(&s) < 0) goto fail;
    enum chan_result r = chan_send(&self->c, value, s.parker, s.waiter);
    if (r == CHAN_DONE) return 0;
    if (r == CHAN_PARKED) {
        int why = park(&s, deadline, WAIT_CHAN_SEND);
        if (why != WAKE_OK) chan_unwait(&self->c, s.waiter, true);
        s.waiter->val = NULL;
        if (why == PARK_ERROR) goto fail;
        if (why != WAKE_OK) goto timed_out;
        if (s.waiter->ok) return 0;
    }
    closed_error(SEND);
    goto fail;
timed_out:
    PyErr_Format(PyExc_TimeoutError, "send: nobody received within %S s", timeout);
fail:
    Py_DECREF(value);
    return -1;
}

static inline int send_value(PyChan *self, PyObject *value, PyObject *timeout) {
    enum chan_result r = chan_send(&self->c, Py_NewRef(value), NULL, NULL);
    if (r == CHAN_DONE) return 0;
    if (r == CHAN_FULL) return send_slowly(self, value, timeout);
    Py_DECREF(value);
    closed_error(SEND);
    return -1;
}

static PyObject *chan_py_send(PyChan *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    PyObject *timeout;
    if (nargs == 1 && !kwnames)
        timeout = NULL;
    else if (parse_timeout(args, nargs, kwnames, 1, &timeout, "send") < 0)
        return NULL;
    if (send_value(self, args[0], timeout) < 0) return NULL;
    Py_RETURN_NONE;
}

/* A tuple that owns the two, either of which may be NULL with an exception set. */
static PyObject *pair(PyObject *first, PyObject *second) {
    PyObject *result = first && second ? PyTuple_New(2) : NULL;
    if (!result) {
        Py_XDECREF(first);
        Py_XDECREF(second);
        return NULL;
    }
    PyTuple_SET_ITEM(result, 0, first);
    PyTuple_SET_ITEM(result, 1, second);
    return result;
}

/* New reference; NULL without an exception: closed. */
static out_of_line PyObject *recv_slowly(PyChan *self, PyObject *timeout) {
    void *value = NULL;
    int64_t deadline = timeout ? deadline_from(timeout) : 0;
    if (deadline == -1) return NULL;
    if (deadline == -2) goto timed_out;
    seat s;
    if (seat_take(&s) < 0) return NULL;
    enum chan_result r = chan_recv(&self->c, &value, s.parker, s.waiter);
    if (r == CHAN_DONE) return value;
    if (r == CHAN_CLOSED) return NULL;
    int why = park(&s, deadline, WAIT_CHAN_RECV);
    if (why == WAKE_OK) {
        value = s.waiter->ok ? s.waiter->val : NULL;
        s.waiter->val = NULL;
        return value;
    }
    chan_unwait(&self->c, s.waiter, false);
    if (why == PARK_ERROR) return NULL;
timed_out:
    PyErr_Format(PyExc_TimeoutError, "recv: nothing was sent within %S s", timeout);
    return NULL;
}

static inline PyObject *recv_value(PyChan *self, PyObject *timeout) {
    void *value = NULL;
    enum chan_result r = chan_recv(&self->c, &value, NULL, NULL);
    if (r == CHAN_DONE) return value;
    return r == CHAN_CLOSED ? NULL : recv_slowly(self, timeout);
}

static PyObject *chan_py_recv(PyChan *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    PyObject *timeout = NULL;
    if ((nargs || kwnames) && parse_timeout(args, nargs, kwnames, 0, &timeout, "recv") < 0) return NULL;
    PyObject *value = recv_value(self, timeout);
    if (!value && !PyErr_Occurred()) return closed_error(RECV);
    return value;
}

static PyObject *chan_next(PyChan *self) { return recv_value(self, NULL); }

/* A channel for try_send() to always find room in. */
static PyObject *chan_growing(PyObject *Py_UNUSED(cls), PyObject *Py_UNUSED(unused)) {
    PyObject *self = PyObject_CallFunction((PyObject *)Chan_Type, "i", 8);
    if (self) ((PyChan *)self)->grows = true;
    return self;
}

static PyObject *chan_try_send(PyChan *self, PyObject *value) {
    enum chan_result r = chan_send(&self->c, Py_NewRef(value), NULL, NULL);
    while (unlikely(r == CHAN_FULL && self->grows)) {
        if (!chan_grow(&self->c)) {
            Py_DECREF(value);
            return PyErr_NoMemory();
        }
        r = chan_send(&self->c, value, NULL, NULL);
    }
    if (r == CHAN_DONE) Py_RETURN_TRUE;
    Py_DECREF(value);
    if (r == CHAN_CLOSED) return closed_error(SEND);
    Py_RETURN_FALSE;
}

static PyObject *chan_try_recv(PyChan *self, PyObject *Py_UNUSED(unused)) {
    void *value = NULL;
    enum chan_result r = chan_recv(&self->c, &value, NULL, NULL);
    if (r == CHAN_CLOSED) return closed_error(RECV);
    return r == CHAN_DONE ? pair(Py_NewRef(Py_True), value) : pair(Py_NewRef(Py_False), Py_NewRef(Py_None));
}

static PyObject *chan_py_close(PyChan *self, PyObject *Py_UNUSED(unused)) {
    if (!chan_close(&self->c)) return closed_error(CLOSE);
    Py_RETURN_NONE;
}

static Py_ssize_t chan_len(PyChan *self) { return load_relaxed(&self->c.count); }
static PyObject *chan_capacity(PyChan *self, void *Py_UNUSED(c)) {
    return PyLong_FromUnsignedLong(self->c.cap);
}
static PyObject *chan_is_closed(PyChan *self, void *Py_UNUSED(c)) {
    return PyBool_FromLong(load_acquire(&self->c.closed));
}

static PyObject *chan_repr(PyChan *self) {
    return PyUnicode_FromFormat("<Chan at %p: %u of %u%s>", self, load_relaxed(&self->c.count), self->c.cap,
                                load_relaxed(&self->c.closed) ? ", closed" : "");
}

static int chan_traverse(PyChan *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    /* The world is stopped, or this thread has the GIL: nobody is inside the lock. */
    for (uint32_t i = 0; i < load_relaxed(&self->c.count); i++)
        Py_VISIT((PyObject *)self->c.ring[(self->c.first + i) % self->c.cap]);
    return 0;
}

static int chan_clear(PyChan *self) {
    void *value;
    while (chan_recv(&self->c, &value, NULL, NULL) == CHAN_DONE) Py_DECREF((PyObject *)value);
    return 0;
}

static void chan_dealloc(PyChan *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs) PyObject_ClearWeakRefs((PyObject *)self);
    if (self->c.ring || !self->c.cap) chan_clear(self);
    chan_free(&self->c);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---------------------------------------------------------------- select */

/* Up to so many cases stand on the C stack. Waiters never do: see park.h. */
enum { FEW = 8 };
static PyObject *few_numbers[FEW]; /* 0, 1, ... */

/* channel, (channel, value) or None. A value to send is borrowed from arg. */
static int fill_case(chan_case *cc, PyObject *arg) {
    PyObject *ch = arg;
    cc->c = NULL;
    cc->sending = false;
    if (arg == Py_None) return 0;
    if (PyTuple_CheckExact(arg) && PyTuple_GET_SIZE(arg) == 2) {
        ch = PyTuple_GET_ITEM(arg, 0);
        cc->sending = true;
        cc->val = PyTuple_GET_ITEM(arg, 1);
        if (ch == Py_None) return 0;
    }
    if (!Py_IS_TYPE(ch, Chan_Type)) {
        PyErr_Format(PyExc_TypeError,
                     "select case %R: give a channel to receive from, (channel, value) to send, or None",
                     arg);
        return -1;
    }
    cc->c = &((PyChan *)ch)->c;
    return 0;
}

/* What select() returns when it has done case `chosen`; steals received. */
static PyObject *select_result(int chosen, bool sent, bool closed, PyObject *received) {
    if (closed) return closed_case(chosen, sent);
    return pair(chosen < FEW ? Py_NewRef(few_numbers[chosen]) : PyLong_FromLong(chosen),
                sent ? Py_NewRef(Py_None) : received);
}

/* The channel owns what is sent; the references for the cases that weren't chosen are given
 * back by select_unsent. */
static void select_own(chan_case *cases, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (cases[i].c && cases[i].sending) Py_INCREF((PyObject *)cases[i].val);
}

static void select_unsent(chan_case *cases, uint32_t n, int sent) {
    for (uint32_t i = 0; i < n; i++)
        if (cases[i].c && cases[i].sending && (int)i != sent) Py_DECREF((PyObject *)cases[i].val);
}

/* The quick way: one channel after the other, in random order. What is ready when it is looked
 * at may be chosen; that none is, only select_try can tell, which holds all the locks. Returns
 * the case that was done, or -1. */
static int select_quick(chan_case *cases, uint32_t n, uint64_t *rand, bool *closed) {
    uint8_t order[FEW], live = 0;
    for (uint8_t i = 0; i < n; i++) { /* Fisher-Yates, inside out */
        if (!cases[i].c) continue;
        uint32_t j = live ? (uint32_t)((uint64_t)rand_next(rand) * (live + 1u) >> 32) : 0;
        order[live++] = order[j];
        order[j] = i;
    }
    for (uint32_t i = 0; i < live; i++) {
        chan_case *cc = &cases[order[i]];
        enum chan_result r = cc->sending ? chan_send(cc->c, Py_NewRef((PyObject *)cc->val), NULL, NULL)
                                         : chan_recv(cc->c, &cc->val, NULL, NULL);
        if (r != CHAN_DONE && cc->sending) Py_DECREF((PyObject *)cc->val);
        if (r == CHAN_FULL) continue;
        *closed = r == CHAN_CLOSED;
        return (int)order[i];
    }
    return -1;
}

/* The same for what selects mostly are: two receives. Without the detour over cases it costs a
 * tenth less. */
static inline int select_two(PyObject *const *args, uint64_t *rand, void **value, bool *closed) {
    uint32_t first = rand_next(rand) >> 31;
    for (uint32_t k = 0; k < 2; k++) {
        enum chan_result r = chan_recv(&((PyChan *)args[first ^ k])->c, value, NULL, NULL);
        if (r == CHAN_FULL) continue;
        *closed = r == CHAN_CLOSED;
        return (int)(first ^ k);
    }
    return -1;
}

/* Tries up to FEW cases without memory for waiters. What the cases are must be told anew
 * afterwards: they would be copied with every switch, were they kept in a frame that waits. */
static out_of_line PyObject *select_few(PyObject *const *args, uint32_t n, uint64_t *rand) {
    chan_case cases[FEW];
    bool closed = false;
    for (uint32_t i = 0; i < n; i++)
        if (fill_case(&cases[i], args[i]) < 0) return NULL;
    int done = select_quick(cases, n, rand, &closed);
    return done < 0 ? NULL : select_result(done, cases[done].sending, closed, cases[done].val);
}

/* A select that may wait: on the heap, as are the waiters that others see. */
typedef struct {
    seat seat;
    chan_case *cases;
    uint32_t n;
    int done; /* the case that was done, or -1 */
    bool closed;
    waiter waiters[];
} select_wait;

/* Tries once more and, if `wait`, begins the wait. NULL with an exception set. */
static out_of_line select_wait *select_begin(PyObject *const *args, uint32_t n, bool wait, uint64_t *rand) {
    size_t size = sizeof(select_wait) + n * (sizeof(waiter) + sizeof(chan_case) + 2 * sizeof(uint32_t));
    select_wait *b = PyMem_Calloc(1, size);
    if (!b) {
        PyErr_NoMemory();
        return NULL;
    }
    b->n = n;
    b->cases = (chan_case *)(b->waiters + n);
    bool ok = !wait || seat_take(&b->seat) == 0;
    for (uint32_t i = 0; ok && i < n; i++) {
        ok = fill_case(&b->cases[i], args[i]) == 0;
        b->cases[i].w = &b->waiters[i];
    }
    if (!ok) {
        PyMem_Free(b);
        return NULL;
    }
    select_own(b->cases, n);
    uint32_t *order = (uint32_t *)(b->cases + n);
    b->done = select_try(b->cases, n, wait ? b->seat.parker : NULL, order, rand, &b->closed);
    return b;
}

static void select_woken(select_wait *b, int why) {
    waiter *hit = why == WAKE_OK ? b->seat.parker->hit : NULL;
    select_done(b->cases, b->n);
    if (!hit) return;
    b->done = (int)hit->index;
    b->closed = !hit->ok;
    if (!b->cases[b->done].sending) b->cases[b->done].val = hit->val;
}

static out_of_line PyObject *select_end(select_wait *b) {
    int done = b->done;
    select_unsent(b->cases, b->n, done >= 0 && !b->closed ? done : -1);
    PyObject *result =
        done < 0 ? NULL : select_result(done, b->cases[done].sending, b->closed, b->cases[done].val);
    PyMem_Free(b);
    return result;
}

/* The whole way. NULL without an exception: no case was ready, in time. */
static out_of_line PyObject *select_slowly(PyObject *const *args, uint32_t n, bool wait, int64_t deadline,
                                           uint64_t *rand) {
    select_wait *b = select_begin(args, n, wait, rand);
    if (!b) return NULL;
    if (b->done < 0 && wait) select_woken(b, park(&b->seat, deadline, WAIT_SELECT));
    return select_end(b);
}

static int select_options(PyObject *const *values, PyObject *kwnames, PyObject **timeout, int *has_default) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *key = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_CompareWithASCIIString(key, "timeout") == 0)
            *timeout = values[i];
        else if (PyUnicode_CompareWithASCIIString(key, "default") == 0)
            *has_default = PyObject_IsTrue(values[i]);
        else {
            PyErr_Format(PyExc_TypeError, "select() got an unknown argument %R; it takes default and timeout",
                         key);
            return -1;
        }
    }
    return *has_default < 0 ? -1 : 0;
}

/* Any cases and options. */
static out_of_line PyObject *select_any(PyObject *const *args, uint32_t n, PyObject *kwnames,
                                        uint64_t *rand) {
    PyObject *timeout = NULL, *result;
    int has_default = 0;
    int64_t deadline = 0;
    if (kwnames) {
        if (select_options(args + n, kwnames, &timeout, &has_default) < 0) return NULL;
        if ((deadline = deadline_from(timeout)) == -1) return NULL;
    }
    if (n <= FEW) {
        result = select_few(args, n, rand);
        if (result || PyErr_Occurred()) return result;
    }
    result = select_slowly(args, n, !has_default && deadline != -2, deadline, rand);
    if (result || PyErr_Occurred()) return result;
    if (has_default) return PyTuple_Pack(2, Py_None, Py_None);
    return PyErr_Format(PyExc_TimeoutError, "select: no case was ready within %S s", timeout);
}

static PyObject *door_select(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames) {
    static _Atomic uint64_t seeds = 0x9E3779B97F4A7C15ULL;
    static _Thread_local uint64_t rand __attribute__((tls_model("initial-exec")));
    if (unlikely(!rand)) rand = atomic_fetch_add(&seeds, 0x9E3779B97F4A7C15ULL) | 1;
    uint32_t n = (uint32_t)nargs;
    if (n != 2 || kwnames || !Py_IS_TYPE(args[0], Chan_Type) || !Py_IS_TYPE(args[1], Chan_Type))
        return select_any(args, n, kwnames, &rand);
    void *value;
    bool closed = false;
    int done = select_two(args, &rand, &value, &closed);
    return done < 0 ? select_slowly(args, n, true, 0, &rand) : select_result(done, false, closed, value);
}

/* ---------------------------------------------------------------- module */

static PyObject *class_getitem(PyObject *cls, PyObject *item) { return Py_GenericAlias(cls, item); }

static PyMethodDef chan_methods[] = {
    {"send", (PyCFunction)(void (*)(void))chan_py_send, METH_FASTCALL | METH_KEYWORDS,
     "send(value, timeout=None)\n--\n\nSend value; wait while the channel is full.\n\n"
     "Raises ChanClosed, TimeoutError after timeout seconds, Cancelled."},
    {"recv", (PyCFunction)(void (*)(void))chan_py_recv, METH_FASTCALL | METH_KEYWORDS,
     "recv(timeout=None)\n--\n\nReceive a value; wait while there is none.\n\n"
     "Raises ChanClosed once the channel is closed and drained, TimeoutError, Cancelled."},
    {"try_send", (PyCFunction)chan_try_send, METH_O,
     "try_send(value, /)\n--\n\nSend without waiting; return whether it was sent. Raises ChanClosed."},
    {"try_recv", (PyCFunction)chan_try_recv, METH_NOARGS,
     "try_recv()\n--\n\nReceive without waiting: (True, value) or (False, None). Raises ChanClosed."},
    {"close", (PyCFunction)chan_py_close, METH_NOARGS,
     "close()\n--\n\nNo more sends. What is in the channel can still be received; whoever waits is woken.\n\n"
     "Raises ChanClosed if it was closed already."},
    {"_growing", chan_growing, METH_NOARGS | METH_CLASS, NULL},
    {"__class_getitem__", class_getitem, METH_O | METH_CLASS, NULL}, /* Chan[int] in annotations */
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef chan_getset[] = {
    {"capacity", (getter)chan_capacity, NULL, "int: how many values it holds; 0: unbuffered.", NULL},
    {"closed", (getter)chan_is_closed, NULL, "bool: whether close() was called.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef chan_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(PyChan, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot chan_slots[] = {
    {Py_tp_new, chan_new},
    {Py_tp_dealloc, chan_dealloc},
    {Py_tp_traverse, chan_traverse},
    {Py_tp_clear, chan_clear},
    {Py_tp_methods, chan_methods},
    {Py_tp_getset, chan_getset},
    {Py_tp_members, chan_members},
    {Py_tp_repr, chan_repr},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, chan_next},
    {Py_sq_length, chan_len},
    {Py_tp_doc,
     "Chan(capacity=0)\n--\n\nA channel as in Go: values go from senders to receivers, in order.\n\n"
     "capacity: values it holds before send waits; 0: send waits for a receiver. Iterating receives\n"
     "until it is closed. Works between G's and plain threads alike."},
    {0, NULL},
};

static PyType_Spec chan_spec = {
    .name = "gmpy_rt.Chan",
    .basicsize = sizeof(PyChan),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = chan_slots,
};

static PyMethodDef methods[] = {
    {"select", (PyCFunction)(void (*)(void))door_select, METH_FASTCALL | METH_KEYWORDS,
     "select(*cases, default=False, timeout=None)\n--\n\nWait until one case can go ahead; do it; return "
     "(index, value).\n\n"
     "A case is a channel (receive), a tuple (channel, value) (send), or None (never ready).\n"
     "Among several ready cases the choice is random and fair. default=True: return (None, None)\n"
     "at once if none is ready. Raises TimeoutError after timeout seconds, ChanClosed if the\n"
     "chosen channel is closed, Cancelled."},
    {NULL, NULL, 0, NULL},
};

int pychan_init(PyObject *module) {
    Chan_Type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &chan_spec, NULL);
    if (!Chan_Type) return -1;
    for (int i = 0; i < FEW; i++)
        if (!(few_numbers[i] = PyLong_FromLong(i))) return -1;
    if (PyModule_AddObjectRef(module, "Chan", (PyObject *)Chan_Type) < 0) return -1;
    return PyModule_AddFunctions(module, methods);
}
