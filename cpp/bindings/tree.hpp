// Arrays in any nesting of containers, flattened in a fixed order.
#pragma once
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

namespace fusedstep {

namespace py = pybind11;

// A str, of which what has no UTF-8 is escaped: lone surrogates, as of the names of files.
std::string utf8(py::handle text);

// The shape of a nesting: made from the parameters, then laid over gradients that must have the same one.
class Tree {
public:
    // Containers are dicts, lists and tuples, and what `expand` knows: it returns a dict of a mapping, a pair of tuples
    // (names and entries) of any other container, and None of everything else. Without it, everything else is a leaf.
    // None within a container is an entry without arrays. `name` stands in messages: "params".
    Tree(py::handle object, std::string name, py::object expand);

    // The leaves in order: dicts in the order of their keys, lists and tuples in theirs.
    const std::vector<py::object>& leaves() const { return leaves_; }

    // "[\"W1\"]", "[0][1]" ...: where each leaf is.
    const std::vector<std::string>& paths() const { return paths_; }

    // The leaves of an object of the same structure, in the same order; None where it holds None in a leaf's or a
    // whole branch's place. TypeError or ValueError that begins with `name` when the structure differs.
    void flatten(PyObject* object, const char* name, std::vector<py::object>& out) const;

    // For Python's garbage collector.
    int traverse(visitproc visit, void* arg) const;
    void clear();

private:
    enum class Kind { leaf, none, dict, sequence, object };
    struct Node {
        Kind kind = Kind::leaf;
        std::string path;              // of an entry without arrays
        std::vector<py::object> keys;  // of a dict; the names of an object's entries
        std::vector<Node> children;
    };

    Node grow(py::handle object, const std::string& path, int depth);
    void walk(const Node& node, PyObject* object, const char* name, std::size_t& next,
              std::vector<py::object>& out) const;
    std::size_t skip(const Node& node, std::size_t next, std::vector<py::object>& out) const;
    [[noreturn]] void mismatch(PyObject* object, const char* name, std::size_t leaf, const std::string& needs) const;

    py::object expanded(PyObject* object) const;

    std::string name_;
    py::object expand_;
    std::vector<py::object> leaves_;
    std::vector<std::string> paths_;
    Node root_;
};

}  // namespace fusedstep
