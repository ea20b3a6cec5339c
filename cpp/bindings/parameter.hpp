// One parameter: its arrays, checked, as the engine's tensor, and what messages call them.
#pragma once
#include <string>
#include <vector>

#include "../engine/engine.hpp"
#include "memory.hpp"

namespace fusedstep {

// What messages call a model's arrays: params["W1"] and grads["W1"], or with `plain` param[0], grad[0] and exp_avg[0]:
// the names of a function's arguments.
struct Names {
    bool plain;
    std::vector<std::string> paths = {};  // of each parameter

    std::string param(const std::string& path) const { return (plain ? "param" : "params") + path; }
    std::string param(std::size_t i) const { return param(paths[i]); }
    std::string grad(std::size_t i) const { return (plain ? "grad" : "grads") + paths[i]; }
    // An array that belongs to a parameter.
    std::string beside(const std::string& path, const char* what) const {
        return plain ? what + path : param(path) + " " + what;
    }
};

struct Parameter {
    py::object param;
    py::list states;    // in the order of the rule's; None for one that is not used, (codes, scales) for 8 bits
    std::string path;   // for messages
    py::object master;  // of a 16-bit parameter: float32, or the int16 half of a split one; or None
    bool stochastic;    // how a 16-bit parameter without a master is rounded
    py::object ema;     // or None
    // Memory of the parameter's size for a rule with a product, in the compute type or bfloat16.
    py::object direction;
};

bool same_shape(PyObject* a, PyObject* b);

// Checks all arrays and adds them to `memory`. TypeError or ValueError for one that does not fit.
Tensor tensor_of(const Parameter& given, const RuleEntry& rule, const Names& names, WrittenMemory& memory);

}  // namespace fusedstep
