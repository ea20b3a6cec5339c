// The native model: one optimizer's groups, memory and gradients, and the engine that steps them.
#pragma once
#include <pybind11/pybind11.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "claim.hpp"
#include "gradients.hpp"
#include "peers.hpp"
#include "records.hpp"

namespace fusedstep {

class Model {
public:
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;

    // The checks are GroupReader's, `plain` is that of Names. `first_index`: of the noise, the number of the first
    // parameter.
    Model(const std::string& rule, py::object check, py::object cross_check, bool plain, std::uint64_t first_index);

    // The dict is kept and read again at every step. `rule` is the group's own, by default the model's. Returns the
    // group's number.
    int add_group(py::dict group, const std::string& rule);

    // Adds one parameter.
    void add(int group, const Parameter& given, std::uint64_t step, const std::vector<double>& scalars);

    // Keeps an array that its owner writes after a step; it must overlap nothing, as the others.
    void hold(const py::object& array, const std::string& name);

    // What becomes of the directions of rules with a product: called in the middle of every step with a list of
    // (number of the parameter, norm of its direction before it was scaled), before anything else is written. If it
    // raises, nothing has changed.
    void set_product(py::object product) { product_ = std::move(product); }

    // As RowGradients and Gradients have them.
    void set_row_check(py::object check, py::object type, py::object without);
    void advise(std::string advice) { gradients.advise(std::move(advice)); }

    // Steps take the claim, as does Python code that must not run during a step. A model made in the place of another
    // shares that one's.
    const std::shared_ptr<Claim>& claim() const { return claim_; }
    void share_claim(const Model& other) { claim_ = other.claim_; }

    // After the last add: checks that nothing overlaps.
    void finish();

    // Lets other processes step this model too, and calls the functions of PythonPeers in every step; see set_pieces.
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
    // `zero_grads` holds for this step in place of the option, which the caller has read and acts on.
    bool step_list(py::list grads, double grad_scale, std::optional<bool> zero_grads);

    // For a TorchModel, which gives the engine its gradients and holds the claim meanwhile. begin() runs everything
    // that may run a caller's code (a schedule's), before any pointer is taken from the caller's gradients; run() takes
    // the step, and calls `check_others` where Python code has run meanwhile.
    // `only` is the number of the one tensor that is stepped, if it is one.
    void begin(double grad_scale);
    bool run(const std::function<void()>& check_others = {}, std::ptrdiff_t only = -1);

    // As StepRecords has it. `states`: of each group the number of the state whose exponents are counted, or -1.
    void watch_steps(std::uint64_t every, std::uint64_t until, const std::vector<int>& states, py::list records,
                     std::size_t keep);
    std::uint64_t until_watched() const { return records_.until(); }

    // Whether the last step, or the one that is taken, sets gradients to zero: what else does so must go by it.
    bool zeroes() const { return now_.zero_grads; }

    void configure(double max_grad_norm, bool skip_nonfinite, bool zero_grads, std::uint64_t seed);

    StepOptions options;
    Visible<std::uint64_t> steps_taken;
    // Of the last step.
    Visible<double> grad_norm = -1;
    Visible<std::uint64_t> nonfinite_blocks;

    // Warns of 8-bit blocks that are NaN since the last step: once a step and all that goes with it is done, as the
    // warning may be an error.
    void warn_of_nonfinite() const;

    // For Python's garbage collector.
    int traverse(visitproc visit, void* arg) const;
    void clear();

    std::size_t size() const { return engine.tensors.size(); }
    std::uint64_t get_step(std::size_t i) const { return engine.tensors.at(i).step; }
    void set_step(std::size_t i, std::uint64_t step);
    // The number by which tensor i has its noise; its place among the tensors if none is set.
    void set_index(std::size_t i, std::uint64_t index);
    std::vector<double> get_scalars(std::size_t i) const;
    void set_scalars(std::size_t i, const std::vector<double>& values);

    // What it is made of.
    Engine engine;
    Names names;
    GroupReader groups;
    WrittenMemory memory;
    Gradients gradients;

private:
    void check_finished(const char* what) const;
    void fix_options();
    bool step_passed();
    void change_directions(const std::function<void()>& check_others);

    std::uint64_t first_index_;
    py::object product_ = py::none();
    StepRecords records_;
    bool finished_ = false;
    std::unique_ptr<PythonPeers> peers_;
    StepOptions now_;  // of the step that is taken: what another thread sets meanwhile holds from the next on
    StepResult last_;
    std::shared_ptr<Claim> claim_ = std::make_shared<Claim>();
};

}  // namespace fusedstep
