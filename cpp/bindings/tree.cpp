#include "tree.hpp"

#include "arrays.hpp"

namespace fusedstep {
namespace {

constexpr int kDeepest = 200;

// ["W1"] or [0]: as Python would print the key, but with double quotes.
std::string step_into(py::handle key) {
    if (py::isinstance<py::str>(key)) return "[\"" + key.cast<std::string>() + "\"]";
    return "[" + py::repr(key).cast<std::string>() + "]";
}

bool is_sequence(PyObject* object) { return PyList_Check(object) || PyTuple_Check(object); }

}  // namespace

Tree::Tree(py::handle object, std::string name) : name_(std::move(name)) { root_ = grow(object, "", 0); }

Tree::Node Tree::grow(py::handle object, const std::string& path, int depth) {
    if (depth > kDeepest) throw py::value_error(name_ + path + ": nested more than 200 deep");
    Node node;
    if (PyDict_Check(object.ptr())) {
        node.kind = Kind::dict;
        for (const auto& item : py::reinterpret_borrow<py::dict>(object)) {
            node.keys.push_back(py::reinterpret_borrow<py::object>(item.first));
            node.children.push_back(grow(item.second, path + step_into(item.first), depth + 1));
        }
    } else if (is_sequence(object.ptr())) {
        node.kind = Kind::sequence;
        std::size_t i = 0;
        for (const auto& item : py::reinterpret_borrow<py::sequence>(object))
            node.children.push_back(grow(item, path + "[" + std::to_string(i++) + "]", depth + 1));
    } else {
        leaves_.push_back(py::reinterpret_borrow<py::object>(object));
        paths_.push_back(path);
    }
    return node;
}

void Tree::flatten(PyObject* object, const char* name, std::vector<PyObject*>& out) const {
    out.clear();
    std::size_t next = 0;
    walk(root_, object, name, next, out);
}

// None for a branch stands for None in each of its leaves.
std::size_t Tree::skip(const Node& node, std::size_t next, std::vector<PyObject*>& out) const {
    if (node.kind == Kind::leaf) {
        out.push_back(Py_None);
        return next + 1;
    }
    for (const Node& child : node.children) next = skip(child, next, out);
    return next;
}

void Tree::walk(const Node& node, PyObject* object, const char* name, std::size_t& next,
                std::vector<PyObject*>& out) const {
    if (node.kind == Kind::leaf) {
        out.push_back(object);
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
            PyObject* child = PyDict_GetItemWithError(object, node.keys[i].ptr());
            if (child == nullptr) {
                if (PyErr_Occurred()) throw py::error_already_set();
                throw py::value_error(std::string(name) + ": has no entry " + step_into(node.keys[i]) +
                                      ", needs the keys of " + name_);
            }
            walk(node.children[i], child, name, next, out);
        }
        if (static_cast<std::size_t>(PyDict_Size(object)) != n) {
            for (const auto& item : py::reinterpret_borrow<py::dict>(object)) {
                bool known = false;
                for (const py::object& key : node.keys) known = known || key.equal(item.first);
                if (!known)
                    throw py::value_error(std::string(name) + ": has an entry " + step_into(item.first) + " that " +
                                          name_ + " has not");
            }
        }
        return;
    }
    if (!is_sequence(object)) mismatch(object, name, next, "a list or tuple");
    const auto length = static_cast<std::size_t>(PySequence_Fast_GET_SIZE(object));
    if (length != n) mismatch(object, name, next, std::to_string(n) + " entries, got " + std::to_string(length));
    for (std::size_t i = 0; i < n; ++i) {
        PyObject* child = PySequence_Fast_GET_ITEM(object, static_cast<Py_ssize_t>(i));
        walk(node.children[i], child, name, next, out);
    }
}

void Tree::mismatch(PyObject* object, const char* name, std::size_t leaf, const std::string& needs) const {
    const std::string near = leaf < paths_.size() ? " at or above " + std::string(name) + paths_[leaf] : "";
    const std::string text = std::string(name) + ": got " + kind_text(object) + near + ", needs the structure of " +
                             name_ + ", there " + needs;
    if (is_sequence(object) || PyDict_Check(object)) throw py::value_error(text);
    throw py::type_error(text);
}

}  // namespace fusedstep
