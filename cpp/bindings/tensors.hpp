// A model whose arrays are another library's tensors (torch's): parameters, gradients and states are read anew at every
// step; other properties are re-read only if a tensor changed.
#pragma once
#include <string>
#include <vector>

#include "model.hpp"
#include "progress.hpp"
#include "reader.hpp"

namespace fusedstep {

class TensorModel : public Model {
public:
    // `check` and `cross_check` as Model's. `watched`: entries of the parameter groups that say how the model was made.
    TensorModel(const std::string& rule, py::object check, py::object cross_check, TensorReader reader,
                std::vector<std::string> watched);

    int traverse(visitproc visit, void* arg) const override;
    void clear() override;

    // After each add(): the tensors behind it.
    //
    // `param` is the entry of group["params"], whose attribute `grad` is the gradient; `local` the tensor whose
    // elements were given to add(), and `inner` the attribute that leads from `param` and from its gradient to
    // theirs, or None. `state` is the dict of its states or None (then a gradient makes the model stale), of which
    // the entries `names` must stay the tensors they are. `step` and `scalars` are one-element tensors of float32 or
    // float64 that are read before each step and written after it; `step` may be None.
    void watch(py::object param, py::object local, py::object inner, py::object state, std::vector<std::string> names,
               py::object step, py::list scalars);

    // One step with the gradients that lie in the parameters' attribute `grad`, or in `substitutes`, by number (None:
    // leave the parameter alone).
    //
    // Returns True when it was taken and False when it was skipped. Returns None, with nothing changed, when the
    // groups, parameters or states are not what they were: the model must be made anew. Returns a list of numbers,
    // with nothing changed, of those gradients that do not lie as their parameters do: try again with substitutes.
    //
    // With `only` the number of a parameter, the others are left alone; -1 is all.
    py::object step(py::list groups, double grad_scale, py::dict substitutes, std::ptrdiff_t only);

    // After the last watch().
    void finish();

    // Whether others may hold the states. If so, every step checks them. While they do not, step counts
    // and scalars are written to their tensors only when that ends.
    void expose_states(bool exposed);
    bool states_exposed() const { return exposed_; }

    // Called with the list of parameters (their `local`) that a step has changed.
    py::object changed = py::none();

    // Numbers of the parameters that the last step changed.
    std::vector<std::size_t> stepped() const;

private:
    // A tensor where it lay, how and what it was.
    struct Place {
        void* data = nullptr;
        std::uint64_t kind = 0;
        std::size_t dims = 0, ndim = 0;  // its shape and then its strides, in dims_
    };
    struct Entry {
        py::str key;
        py::object tensor, local;
        Place place;
    };
    enum class Found { none, usable, other };
    struct Item {
        py::object param, local, inner, state;
        PyGetSetDef* grad_getter = nullptr;  // what the attribute `grad` of the parameter's type calls, if it is C
        py::object grad;                     // held during the step
        Found found = Found::none;           // what it is
        // A weak reference to the last gradient of which more was asked than where it lies: another tensor may have its
        // address once it is gone.
        py::object asked;
        const void* asked_at = nullptr;
        Place place;
        Format format = Format::float32;
        bool complex = false;
        Progress progress;
        std::vector<Entry> entries;
    };
    void settle(std::size_t group) override;
    void check_after_waiting() override;
    static unsigned states_in_use(const Group& group);
    bool has_states(const ::fusedstep::Tensor& x) const;
    bool same_groups(py::list groups) const;
    bool same_tensors(const Item& item, bool& ran) const;
    bool same_places(const Item& item);
    Place place_of(const View& view);
    bool lies_as(const Place& place, const View& view) const;
    bool is_at(const Place& place, PyObject* tensor);
    static py::object grad_of(const Item& item);
    bool fits(const Item& item, Format& format);
    static Found take_gradient(Item& item, PyObject* substitute, bool& ran);
    Found place_gradient(std::size_t i, bool& ran);
    void report_changes();

    TensorReader reader_;
    std::vector<std::string> watched_names_;
    std::vector<std::vector<std::pair<py::str, py::object>>> watched_;  // by group
    std::vector<unsigned> used_;                                        // states in use when it was made, by group
    std::vector<Item> items_;
    std::vector<std::int64_t> dims_;
    py::list every_;  // of `local`
    bool exposed_ = true;
};

}  // namespace fusedstep
