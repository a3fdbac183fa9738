/* pygroup.c: TaskGroup's core: the G's of a group, in lists that each leaves as it ends.
 *
 * A child belongs to the group from before it can run until finish() has published its
 * outcome; then group_child_ended takes it out, keeps its failure, and wakes who waits for
 * the last one; the first failure wakes that one too, or interrupts the body through its
 * scope. Lists and numbers stand under the group's lock, a leaf. The lists borrow their
 * G's: a child lives at least until it has left. */
#include "bridge.h"

typedef struct PyGroup {
    PyObject_HEAD
    PyObject *weakrefs;
    mutex lock;
    PyG *live, *cancelled; /* children; `cancelled`: cancel() has been to them */
    uint64_t count;
    bool open, failed, told;
    bool cancelling;        /* cancel() was called: who comes now is cancelled, too */
    _Atomic bool abandoned; /* nobody waits: what fails is reported like any G's failure */
    waitq q;                /* who is in wait() */
    PyObject *scope;        /* the Scope around the body, while that runs */
    PyObject *errors;       /* list of exceptions */
} PyGroup;

static void link_child(PyG **list, PyG *child) {
    child->group_prev = NULL;
    child->group_next = *list;
    if (*list) (*list)->group_prev = child;
    *list = child;
}

static void unlink_child(PyGroup *self, PyG *child) {
    if (child->group_prev)
        child->group_prev->group_next = child->group_next;
    else if (self->live == child)
        self->live = child->group_next;
    else
        self->cancelled = child->group_next;
    if (child->group_next) child->group_next->group_prev = child->group_prev;
    child->group_prev = child->group_next = NULL;
}

int group_enter(PyGroup *self, PyG *child) {
    mutex_lock(&self->lock);
    bool ok = self->open, late = self->cancelling;
    if (ok) {
        child->group = (PyGroup *)Py_NewRef((PyObject *)self);
        link_child(late ? &self->cancelled : &self->live, child);
        self->count++;
    }
    mutex_unlock(&self->lock);
    if (ok && late) interrupt_g(child, Cancelled); /* it doesn't begin */
    if (!ok)
        PyErr_SetString(PyExc_RuntimeError,
                        "TaskGroup.go() outside its block: the group hasn't begun, or is over");
    return ok ? 0 : -1;
}

static void wake_all(waiter *chain) {
    for (waiter *w; (w = chain);) {
        chain = w->next;
        w->next = NULL;
        parker_unpark(w->parker);
    }
}

void group_child_ended(PyG *child) {
    PyGroup *self = child->group;
    bool failure =
        child->exc && !PyErr_GivenExceptionMatches(child->exc, Cancelled) && !load_relaxed(&self->abandoned);
    PyObject *scope = NULL;
    waiter *chain = NULL, *w;
    if (failure) {
        child->seen = true;
        if (PyList_Append(self->errors, child->exc) < 0) PyErr_Clear();
    }
    mutex_lock(&self->lock);
    unlink_child(self, child);
    self->count--;
    if (failure && !self->failed) {
        self->failed = true;
        scope = Py_XNewRef(self->scope);
    }
    if (self->count == 0 || (self->failed && !self->told))
        while ((w = waitq_claim(&self->q, WAKE_OK))) {
            w->next = chain;
            chain = w;
        }
    mutex_unlock(&self->lock);
    wake_all(chain);
    if (scope) {
        PyObject *r = PyObject_CallMethod(scope, "cancel", NULL);
        if (!r) PyErr_Clear(); /* the body has left it */
        Py_XDECREF(r);
        Py_DECREF(scope);
    }
    child->group = NULL;
    Py_DECREF(self);
}

static PyObject *group_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs)) {
    PyGroup *self = (PyGroup *)type->tp_alloc(type, 0);
    if (self && !(self->errors = PyList_New(0))) Py_CLEAR(self);
    return (PyObject *)self;
}

static PyObject *group_go(PyGroup *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    return go_in_group(self, args, nargs, kwnames);
}

static PyObject *group_open(PyGroup *self, PyObject *scope) {
    mutex_lock(&self->lock);
    bool again = self->open || self->count || self->told;
    if (!again) {
        self->open = true;
        self->scope = scope == Py_None ? NULL : Py_NewRef(scope);
    }
    mutex_unlock(&self->lock);
    if (!again) Py_RETURN_NONE;
    PyErr_SetString(PyExc_RuntimeError, "a TaskGroup can be entered once; make a new one");
    return NULL;
}

static PyObject *group_body_ended(PyGroup *self, PyObject *Py_UNUSED(unused)) {
    mutex_lock(&self->lock);
    PyObject *scope = self->scope;
    self->scope = NULL;
    mutex_unlock(&self->lock);
    Py_XDECREF(scope);
    Py_RETURN_NONE;
}

/* True: all have ended, and the group is closed. False, once: a child has failed. */
static PyObject *group_wait(PyGroup *self, PyObject *Py_UNUSED(unused)) {
    seat s;
    if (seat_take(&s) < 0) return NULL;
    for (;;) {
        mutex_lock(&self->lock);
        bool over = self->count == 0, tell = !over && self->failed && !self->told;
        if (over) self->open = false;
        if (over || tell)
            self->told = true;
        else {
            waiter_init(s.waiter, s.parker, wait_begin(s.parker));
            waitq_push(&self->q, s.waiter);
        }
        mutex_unlock(&self->lock);
        if (over) Py_RETURN_TRUE;
        if (tell) Py_RETURN_FALSE;
        int why = park(&s, 0, WAIT_TASKS);
        if (why == WAKE_OK) continue;
        mutex_lock(&self->lock);
        waitq_remove(&self->q, s.waiter);
        mutex_unlock(&self->lock);
        return NULL;
    }
}

static PyObject *group_cancel(PyGroup *self, PyObject *Py_UNUSED(unused)) {
    mutex_lock(&self->lock);
    self->cancelling = true;
    PyG *last = self->cancelled; /* those cancelled before, too */
    while (last && last->group_next) last = last->group_next;
    if (last) {
        last->group_next = self->live;
        if (self->live) self->live->group_prev = last;
        self->live = self->cancelled;
        self->cancelled = NULL;
    }
    for (PyG *child; (child = self->live);) {
        unlink_child(self, child);
        link_child(&self->cancelled, child);
        Py_INCREF(child);
        mutex_unlock(&self->lock);
        interrupt_g(child, Cancelled);
        Py_DECREF(child);
        mutex_lock(&self->lock);
    }
    mutex_unlock(&self->lock);
    Py_RETURN_NONE;
}

static PyObject *group_abandon(PyGroup *self, PyObject *unused) {
    mutex_lock(&self->lock);
    self->open = false;
    store_relaxed(&self->abandoned, true);
    mutex_unlock(&self->lock);
    return group_cancel(self, unused);
}

static Py_ssize_t group_len(PyGroup *self) { return (Py_ssize_t)self->count; }
static int group_bool(PyGroup *Py_UNUSED(self)) { return 1; }

static int group_traverse(PyGroup *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->scope);
    Py_VISIT(self->errors);
    return 0;
}

static int group_clear(PyGroup *self) {
    Py_CLEAR(self->scope);
    Py_CLEAR(self->errors);
    return 0;
}

static void group_dealloc(PyGroup *self) { /* a child holds a reference: there is none */
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs) PyObject_ClearWeakRefs((PyObject *)self);
    group_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef group_methods[] = {
    {"go", (PyCFunction)(void (*)(void))group_go, METH_FASTCALL | METH_KEYWORDS,
     "go(fn, /, *args, **kwargs)\n--\n\nStart fn(*args, **kwargs) as a G of this group and return it.\n\n"
     "Children may do so too. Raises RuntimeError outside the block."},
    {"_open", (PyCFunction)group_open, METH_O, NULL},
    {"_body_ended", (PyCFunction)group_body_ended, METH_NOARGS, NULL},
    {"_wait", (PyCFunction)group_wait, METH_NOARGS, NULL},
    {"_abandon", (PyCFunction)group_abandon, METH_NOARGS, NULL},
    {"cancel", (PyCFunction)group_cancel, METH_NOARGS,
     "cancel()\n--\n\nCancel every child that hasn't ended, and those that are started from now on."},
    {NULL, NULL, 0, NULL},
};
static PyMemberDef group_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(PyGroup, weakrefs), READONLY, NULL},
    {"_cancelling", T_BOOL, offsetof(PyGroup, cancelling), READONLY, NULL},
    {"_errors", T_OBJECT_EX, offsetof(PyGroup, errors), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyType_Slot group_slots[] = {
    {Py_tp_new, group_new},
    {Py_tp_dealloc, group_dealloc},
    {Py_tp_traverse, group_traverse},
    {Py_tp_clear, group_clear},
    {Py_tp_methods, group_methods},
    {Py_tp_members, group_members},
    {Py_sq_length, group_len},
    {Py_nb_bool, group_bool},
    {Py_tp_doc, "Group()\n--\n\nThe core of gmpy_rt.TaskGroup."},
    {0, NULL},
};
static PyType_Spec group_spec = {
    .name = "gmpy_rt._door.Group",
    .basicsize = sizeof(PyGroup),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = group_slots,
};

int pygroup_init(PyObject *module) {
    PyObject *group = PyType_FromModuleAndSpec(module, &group_spec, NULL);
    return group ? PyModule_AddObjectRef(module, "Group", group) : -1;
}
