// A model whose arrays are another library's tensors (torch's): parameters, gradients and states are read anew at every
// step; other properties are re-read only if a tensor changed.
#pragma once
#include <string>
#include <vector>

#include "model.hpp"
#include "progress.hpp"
#include "tensor_gradient.hpp"

namespace fusedstep {

// How a step ended.
struct StepAnswer {
    enum Outcome {
        taken,
        skipped,
        stale,   // nothing was changed: groups, parameters or states are not what they were; make the model anew
        copies,  // nothing was changed: the gradients `which` do not lie as their parameters do; try again with
                 // substitutes
    };
    Outcome outcome;
    std::vector<std::size_t> which = {};
};

class TorchModel {
public:
    // `model` is a Model that only this one steps. `watched`: entries of the parameter groups that say how the model
    // was made.
    TorchModel(py::object model, TensorReader reader, std::vector<std::string> watched);

    // After each Model::add(): the tensors behind it.
    //
    // `local` is the tensor whose elements were given to add(); see TensorParam. `state` is the dict of its states or
    // None (then a gradient makes the model stale), of which the entries `names` must stay the tensors they are. `step`
    // and `scalars` are one-element tensors of float32 or float64 that are read before each step and written after it;
    // `step` may be None. `direction` is the memory between the two parts of a step, or None.
    void watch(py::object param, py::object local, py::object inner, py::object state, std::vector<std::string> names,
               py::object step, py::list scalars, py::object direction);

    // After the last watch(), in the place of Model::finish().
    void finish();

    // One step with the gradients that lie in the parameters' attribute `grad`, or in `substitutes`, by number (None:
    // leave the parameter alone). With `only` the number of a parameter, the others are left alone; -1 is all.
    StepAnswer step(py::list groups, double grad_scale, py::dict substitutes, std::ptrdiff_t only);

    // Whether others may hold the states. If so, every step checks them. While they do not, step counts
    // and scalars are written to their tensors only when that ends.
    void expose_states(bool exposed);
    bool states_exposed() const { return exposed_; }

    // Called with the list of parameters (their `local`) that a step has changed.
    py::object changed = py::none();

    // Numbers of the parameters that the last step changed.
    std::vector<std::size_t> stepped() const;
    bool zeroes() const { return model_.zeroes(); }

    // For Python's garbage collector.
    int traverse(visitproc visit, void* arg) const;
    void clear();

private:
    using Found = TensorGradient::Found;
    struct Entry {
        py::str key;
        py::object tensor, local;
        Place place;
    };
    struct Item {
        TensorParam param;
        TensorGradient grad;
        Found found = Found::none;
        py::object state = {};
        Progress progress = {};
        std::vector<Entry> entries = {};
        py::object direction = py::none();
        Place direction_place = {};
    };
    static unsigned states_in_use(const Group& group);
    bool has_states(const Tensor& x) const;
    bool shares_scalars(std::size_t i) const;
    bool same_groups(py::list groups) const;
    bool same_tensors(const Item& item, bool& ran) const;
    bool same_places(const Item& item);
    bool in_storages(const Item& item);
    void check_places();
    void report_changes();

    py::object owner_;  // of model_
    Model& model_;
    Places places_;
    std::vector<std::string> watched_names_;
    std::vector<std::vector<std::pair<py::str, py::object>>> watched_;  // by group
    std::vector<unsigned> used_;                                        // states in use when it was made, by group
    std::vector<Item> items_;
    py::list every_;  // of `local`
    bool exposed_ = true;
};

}  // namespace fusedstep
