#include "tree.hpp"

#include "arrays.hpp"
#include "items.hpp"

namespace fusedstep {
namespace {

constexpr int kDeepest = 200;

// ["W1"] or [0]: as Python would print the key, but with double quotes.
std::string step_into(py::handle key) {
    const bool plain = py::isinstance<py::str>(key);
    const py::object written = plain ? py::reinterpret_borrow<py::object>(key) : py::repr(key);
    // Text may hold what has no UTF-8: lone surrogates, as of the names of files.
    const auto bytes =
        py::reinterpret_steal<py::bytes>(PyUnicode_AsEncodedString(written.ptr(), "utf-8", "backslashreplace"));
    if (!bytes) throw py::error_already_set();
    const std::string text = bytes;
    return plain ? "[\"" + text + "\"]" : "[" + text + "]";
}

bool is_sequence(PyObject* object) { return PyList_Check(object) || PyTuple_Check(object); }

}  // namespace

Tree::Tree(py::handle object, std::string name) : name_(std::move(name)) { root_ = grow(object, "", 0); }

Tree::Node Tree::grow(py::handle object, const std::string& path, int depth) {
    if (depth > kDeepest) throw py::value_error(name_ + path + ": nested more than 200 deep");
    Node node;
    if (PyDict_Check(object.ptr())) {
        node.kind = Kind::dict;
        // A copy: the names of keys are asked of Python code.
        const auto items = py::reinterpret_steal<py::list>(PyDict_Items(object.ptr()));
        if (!items) throw py::error_already_set();
        for (const py::handle item : items) {
            const py::handle key = PyTuple_GET_ITEM(item.ptr(), 0), value = PyTuple_GET_ITEM(item.ptr(), 1);
            node.keys.push_back(py::reinterpret_borrow<py::object>(key));
            node.children.push_back(grow(value, path + step_into(key), depth + 1));
        }
    } else if (is_sequence(object.ptr())) {
        node.kind = Kind::sequence;
        const auto items = py::reinterpret_steal<py::tuple>(PySequence_Tuple(object.ptr()));
        if (!items) throw py::error_already_set();
        std::size_t i = 0;
        for (const py::handle item : items)
            node.children.push_back(grow(item, path + "[" + std::to_string(i++) + "]", depth + 1));
    } else {
        leaves_.push_back(py::reinterpret_borrow<py::object>(object));
        paths_.push_back(path);
    }
    return node;
}

void Tree::flatten(PyObject* object, const char* name, std::vector<py::object>& out) const {
    let_go(out);
    std::size_t next = 0;
    walk(root_, object, name, next, out);
}

// None for a branch stands for None in each of its leaves.
std::size_t Tree::skip(const Node& node, std::size_t next, std::vector<py::object>& out) const {
    if (node.kind == Kind::leaf) {
        out.push_back(py::none());
        return next + 1;
    }
    for (const Node& child : node.children) next = skip(child, next, out);
    return next;
}

void Tree::walk(const Node& node, PyObject* object, const char* name, std::size_t& next,
                std::vector<py::object>& out) const {
    if (node.kind == Kind::leaf) {
        out.push_back(py::reinterpret_borrow<py::object>(object));
        ++next;
        return;
    }
    if (object == Py_None) {
        next = skip(node, next, out);
        return;
    }
    const std::size_t n = node.children.size();
    if (node.kind == Kind::dict) {
        if (!PyDict_Check(object)) mismatch(object, name, next, "a dict");
        for (std::size_t i = 0; i < n; ++i) {
            const py::object child = dict_item(object, node.keys[i].ptr());
            if (!child)
                throw py::value_error(std::string(name) + ": has no entry " + step_into(node.keys[i]) +
                                      ", needs the keys of " + name_);
            walk(node.children[i], child.ptr(), name, next, out);
        }
        if (static_cast<std::size_t>(PyDict_Size(object)) != n) {
            const auto given = py::reinterpret_steal<py::list>(PyDict_Keys(object));
            if (!given) throw py::error_already_set();
            py::set known;
            for (const py::object& key : node.keys) known.add(key);
            for (const py::handle found : given) {
                if (!known.contains(found))
                    throw py::value_error(std::string(name) + ": has an entry " + step_into(found) + " that " + name_ +
                                          " does not have");
            }
        }
        return;
    }
    if (!is_sequence(object)) mismatch(object, name, next, "a list or tuple");
    const auto length = static_cast<std::size_t>(PySequence_Fast_GET_SIZE(object));
    if (length != n) mismatch(object, name, next, std::to_string(n) + " entries, got " + std::to_string(length));
    for (std::size_t i = 0; i < n; ++i) {
        // Comparing keys further in may run Python code, and that may shorten a list.
        const py::object child = sequence_item(object, i);
        if (!child) throw py::value_error(std::string(name) + ": was changed while it was looked at");
        walk(node.children[i], child.ptr(), name, next, out);
    }
}

int Tree::traverse(visitproc visit, void* arg) const {
    for (const py::object& leaf : leaves_) Py_VISIT(leaf.ptr());
    return 0;
}

void Tree::clear() {
    const std::vector<py::object> released = std::move(leaves_);
    leaves_.clear();
}

void Tree::mismatch(PyObject* object, const char* name, std::size_t leaf, const std::string& needs) const {
    const std::string near = leaf < paths_.size() ? " at or above " + std::string(name) + paths_[leaf] : "";
    const std::string text = std::string(name) + ": got " + kind_text(object) + near + ", needs the structure of " +
                             name_ + ", there " + needs;
    if (is_sequence(object) || PyDict_Check(object)) throw py::value_error(text);
    throw py::type_error(text);
}

}  // namespace fusedstep
