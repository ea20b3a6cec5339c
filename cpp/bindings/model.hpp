// One optimizer's arrays and hyper-parameters as the engine wants them, and the Python objects they come from.
#pragma once
#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <vector>

#include "../engine/engine.hpp"
#include "../engine/rows.hpp"
#include "arrays.hpp"
#include "claim.hpp"
#include "items.hpp"
#include "peers.hpp"
#include "tree.hpp"

namespace fusedstep {

const RuleEntry* active_rules();

// Its number. ValueError for an unknown one.
int find_rule(const std::string& name);

class Model {
public:
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;

    // `check(group, name, value)` returns the value checked, as float, bool, tuple of floats or None, with a callable
    // already called; `cross_check(group)` checks all of a group's values together. Both raise what a user reads.
    // None: the values were checked before.
    //
    // Messages call the arrays params["W1"] and grads["W1"], with `plain` param[0], grad[0] and exp_avg[0]: the names
    // of a function's arguments.
    Model(const std::string& rule, py::object check, py::object cross_check, bool plain, std::uint64_t first_index);

    virtual ~Model() = default;

    // The dict is kept and read again at every step. `rule` is the group's own, by default the model's. Returns the
    // group's number.
    int add_group(py::dict group, const std::string& rule);

    // Adds one parameter. `states` are in the order of the rule's; None for one that the group's options do not use.
    // An 8-bit state is a pair (codes, scales). `copy` is the 16-bit parameter when `param` is its float32 master,
    // `remainder` the other half of a split one, `ema` the array of the average. `direction` is memory of the
    // parameter's size for a rule with a product, in the compute type or bfloat16.
    void add(int group, py::object param, py::list states, const std::string& path, py::object copy,
             py::object remainder, bool stochastic, py::object ema, py::object direction, std::uint64_t step,
             std::vector<double> scalars);

    // What becomes of the directions of rules with a product: called in the middle of every step with a list of
    // (number of the parameter, norm of its direction before it was scaled), before anything else is written. If it
    // raises, nothing has changed.
    void take_product(py::object product) { product_ = std::move(product); }

    // How a gradient of rows is taken: an object of this type has `indices` and `values`. `check(index, gradient)`
    // checks everything about it and returns these two, or None when it is no such gradient; it is only asked where
    // something is not plain. `without`: hyper-parameters that must be 0, or None where the rule has no such form.
    void take_rows(py::object check, py::object type, py::object without);

    // What ends the error for a gradient of another form, but with numbers: how it can be taken all the same.
    void advise(std::string advice) { advice_ = std::move(advice); }

    // Steps take the claim, as does Python code that must not run during a step. A model made in the place of another
    // shares that one's.
    const std::shared_ptr<Claim>& claim() const { return claim_; }
    void share_claim(const Model& other) { claim_ = other.claim_; }

    // After the last add: checks that nothing overlaps.
    void finish();

    // Lets other processes step this model too, and calls the functions of PythonPeers in every step. `pieces` says of
    // each tensor how many elements of it lie before and after the piece that is here, `buckets` where each bucket
    // ends: (tensor, element).
    void share_tensors(const std::vector<std::pair<std::size_t, std::size_t>>& pieces,
                       const std::vector<std::pair<std::size_t, std::size_t>>& buckets, py::object begin,
                       py::object receive, py::object sum, py::object send);

    // The same for tensors of which every process has a part cut anywhere: `sum` gets one value of each tensor, or two.
    void share_parts(py::object begin, py::object sum);

    // Gradients of the structure of `tree`, kept until bind is called again; None leaves its parameter alone.
    void bind(const Tree& tree, py::object grads);

    // One step with the bound gradients, or with the given ones (flattened by `tree`, or a flat list without it).
    // Returns whether it was taken.
    // `prepare` runs only the checks that need no gradient.
    void prepare(double grad_scale);
    bool step_bound(double grad_scale);
    bool step_tree(const Tree& tree, py::object grads, double grad_scale);
    bool step_list(py::list grads, double grad_scale);

    void configure(double max_grad_norm, bool skip_nonfinite, bool zero_grads, std::uint64_t seed);

    // Watches the next step but `until`, and every `every`th after it (0: none). Puts a tuple at the end of `records`,
    // which holds `keep` at most: whether it was taken; whether it was of one tensor
    // alone; the scale of the gradients; bytes of nine doubles for every
    // tensor with a gradient (its number, its group's, the step's, elements, and TensorSums), of three uint32 for every
    // exponent that occurs (number of the tensor, exponent, count), and of kMaxHypers doubles for every group.
    // `states`: of each group the number of the state whose exponents are counted, or -1.
    void watch_steps(std::uint64_t every, std::uint64_t until, const std::vector<int>& states, py::list records,
                     std::size_t keep);
    std::uint64_t until_watched() const { return until_watched_; }

    StepOptions options;
    Visible<std::uint64_t> steps_taken;
    // Of the last step.
    Visible<double> grad_norm = -1;
    Visible<std::uint64_t> nonfinite_blocks;

    // Warns of 8-bit blocks that are NaN since the last step: once a step and all that goes with it is done, as the
    // warning may be an error.
    void warn_of_nonfinite() const;

    // For Python's garbage collector.
    virtual int traverse(visitproc visit, void* arg) const;
    virtual void clear();

    std::size_t size() const { return engine_.tensors.size(); }
    std::uint64_t get_step(std::size_t i) const { return engine_.tensors.at(i).step; }
    void set_step(std::size_t i, std::uint64_t step);
    // The number by which tensor i has its noise; its place among the tensors if none is set.
    void set_index(std::size_t i, std::uint64_t index);
    std::vector<double> get_scalars(std::size_t i) const;
    void set_scalars(std::size_t i, const std::vector<double>& values);
    bool has_bound() const { return !bound_.empty(); }

protected:
    // Values that belong to every rule; the others are numbered as the rule's hyper-parameters.
    enum Slot { kMaximize = -1, kClipValue = -2, kEmaDecay = -3, kCautious = -4 };

    // A value of a group as last seen. While the dict holds the same immutable object there is nothing to do.
    struct Value {
        py::str key;
        py::object seen;
        bool constant = false;
        int slot = 0;
        int width = 1;  // more: a tuple of as many numbers
    };
    struct GroupSource {
        py::dict dict;
        std::vector<Value> values;
        bool averaged = false;  // ema_decay is a number
        bool unsettled = true;  // values changed and were not checked together since
    };

    struct RowGradient {
        std::size_t tensor = 0, count = 0, row_size = 0, index_size = 0;
        py::object indices, values;
        const void* numbers = nullptr;
        Array given;  // the values
        RowSums sums;
    };

    Stream state_stream(PyObject* object, const State& state, const Tensor& x, PyObject* param,
                        const std::string& name);
    void check_shape(PyObject* object, PyObject* param, const std::string& name) const;
    void keep(const py::object& object, const Array& array, const std::string& name);
    void read_groups();
    virtual void settle(std::size_t group);
    void read_value(std::size_t group, Value& value);
    void set_gradient(std::size_t i, PyObject* grad);
    std::string advice(PyObject* grad) const;
    bool has_rows(std::size_t i) const;
    bool take_parts(std::size_t i, RowGradient& taken, py::object indices, py::object values) const;
    const Extent* written_within(const RowGradient& taken) const;
    bool set_rows(std::size_t i, PyObject* grad);
    void sum_rows();
    void zero_rows();
    void check_gradient_overlap();
    void check_still_there() const;
    virtual void check_after_waiting();
    void check_gradients_still_there(const std::vector<py::object>& grads) const;
    void check_count() const;
    void check_finished(const char* what) const;
    void note_bound();
    void begin(double grad_scale);
    void take_options();
    bool step_flat();
    void step_engine();
    void change_directions();
    bool run();
    void record();
    const RuleEntry& rule_of(int group) const;
    const RuleEntry& rule_of(const Tensor& x) const { return rule_of(x.group); }

    std::string grad_name(std::size_t i) const { return (plain_ ? "grad" : "grads") + paths_[i]; }
    std::string param_name(const std::string& path) const { return (plain_ ? "param" : "params") + path; }

    int rule_;
    bool plain_;
    std::uint64_t first_index_;  // of the noise: the number of the first parameter
    std::string advice_;
    py::object check_, cross_check_, product_ = py::none();
    Engine engine_;
    std::vector<GroupSource> groups_;
    std::vector<std::string> paths_;
    std::vector<py::object> params_;  // as given: what gradients are compared with
    std::vector<py::object> owned_;   // keeps every other array alive
    struct Written {
        PyObject* object;
        Seen seen;
    };
    std::vector<Written> written_;  // arrays that a step writes, to see that they still are what they were
    std::vector<Extent> extents_;   // the same as ranges of memory; sorted by finish()
    std::vector<py::object> flat_;  // gradients of the current call, held while other threads may run
    struct Range {
        const char *begin = nullptr, *end = nullptr;
    };
    std::vector<Range> checked_grads_;  // where gradients were found free of overlap before
    py::object check_rows_ = py::none(), rows_type_;
    bool rows_possible_ = false;
    std::vector<std::size_t> rows_without_;  // numbers of hyper-parameters
    std::vector<RowGradient> rows_;          // the first of them are the current step's, the others' memory is kept
    std::size_t rows_used_ = 0;
    std::vector<py::object> bound_;
    std::vector<Seen> bound_seen_;
    bool bound_current_ = false;  // the engine's gradients are the bound ones
    bool finished_ = false;
    StepResult last_;
    std::uint64_t watch_every_ = 0, until_watched_ = 0;
    std::ptrdiff_t only_ = -1;  // the one tensor that is stepped; -1: all
    py::list records_;
    std::size_t records_kept_ = 0;
    std::unique_ptr<PythonPeers> peers_;
    StepOptions now_;  // of the step that is taken: what another thread sets meanwhile holds from the next on
    std::shared_ptr<Claim> claim_ = std::make_shared<Claim>();
};

}  // namespace fusedstep
