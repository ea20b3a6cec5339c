#include "model.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "../threads/count.hpp"
#include "../threads/parallel.hpp"
#include "gil.hpp"

namespace fusedstep {
namespace {

// Letting other Python threads run costs a lock or two: not worth it for steps of a microsecond.
constexpr std::size_t kReleaseFrom = 8192;

}  // namespace

Model::Model(const std::string& rule, py::object check, py::object cross_check, bool plain, std::uint64_t first_index)
    : names{plain},
      groups(engine, rule, std::move(check), std::move(cross_check)),
      gradients(engine, groups, memory, names),
      first_index_(first_index) {
    groups.needs_average = !plain;
    // What the environment says about threads is wrong now or never.
    default_threads();
    threading();
}

int Model::add_group(py::dict group, const std::string& rule) {
    const Claim::Guard claimed(*claim_, "param_groups", false);
    return groups.add(std::move(group), rule);
}

void Model::add(int group, const Parameter& given, std::uint64_t step, const std::vector<double>& scalars) {
    const Claim::Guard claimed(*claim_, "params", false);
    if (group < 0 || static_cast<std::size_t>(group) >= groups.size())
        throw py::index_error("group: got " + std::to_string(group) + ", needs the number of an added group");
    const RuleEntry& rule = groups.rule(group);
    if (given.states.size() != static_cast<std::size_t>(rule.n_states))
        throw py::value_error("states: got " + std::to_string(given.states.size()) + ", needs " +
                              std::to_string(rule.n_states));
    finished_ = false;
    Tensor x = tensor_of(given, rule, names, memory);
    x.group = group;
    x.index = first_index_ + engine.tensors.size();
    x.step = step;
    if (scalars.size() > x.scalars.size()) throw py::value_error("scalars: got more than a rule has");
    std::copy(scalars.begin(), scalars.end(), x.scalars.begin());
    engine.tensors.push_back(x);
    gradients.add(given.param);
    names.paths.push_back(given.path);
}

void Model::hold(const py::object& array, const std::string& name) {
    const Claim::Guard claimed(*claim_, "params", false);
    finished_ = false;
    memory.add(array, as_array(array.ptr(), true, name), name);
}

void Model::set_row_check(py::object check, py::object type, py::object without) {
    const Claim::Guard claimed(*claim_, "params", false);
    gradients.rows.set_check(std::move(check), std::move(type), std::move(without));
}

void Model::finish() {
    const Claim::Guard claimed(*claim_, "params", false);
    memory.finish();
    gradients.finish();
    groups.read_all();
    engine.prepare();
    finished_ = true;
}

void Model::share_tensors(const std::vector<std::pair<std::size_t, std::size_t>>& pieces,
                          const std::vector<std::pair<std::size_t, std::size_t>>& buckets, py::object begin,
                          py::object receive, py::object sum, py::object send) {
    const Claim::Guard claimed(*claim_, "params", false);
    check_finished("share_tensors()");
    set_pieces(engine, pieces, buckets);
    peers_ = std::make_unique<PythonPeers>(std::move(begin), std::move(receive), std::move(sum), std::move(send));
    engine.peers = peers_.get();
    engine.prepare();
}

void Model::share_parts(py::object begin, py::object sum) {
    const Claim::Guard claimed(*claim_, "params", false);
    check_finished("share_parts()");
    for (Tensor& x : engine.tensors) x.after = x.size == 0 ? 1 : 0;  // a block for the sum of the others' parts
    engine.buckets = {{engine.tensors.size(), 0}};
    engine.sums_of_tensors = true;
    peers_ = std::make_unique<PythonPeers>(std::move(begin), py::none(), std::move(sum), py::none());
    engine.peers = peers_.get();
    engine.prepare();
}

void Model::begin(double grad_scale) {
    check_finished("step()");
    if (!(grad_scale > 0) || !std::isfinite(grad_scale))
        throw py::value_error("grad_scale: got " + py::str(py::float_(grad_scale)).cast<std::string>() +
                              ", needs a finite number above 0");
    const double inverse = 1 / grad_scale;
    if (!std::isfinite(engine.single() ? static_cast<double>(static_cast<float>(inverse)) : inverse))
        throw py::value_error("grad_scale: got " + py::str(py::float_(grad_scale)).cast<std::string>() +
                              ", needs a number whose inverse is finite in " +
                              (engine.single() ? "float32" : "float64"));
    groups.read();
    fix_options();
    now_.grad_scale = grad_scale;
}

// Those of this step: what another thread sets meanwhile holds from the next on.
void Model::fix_options() {
    now_ = options;
    gradients.begin(now_.zero_grads);
}

void Model::watch_steps(std::uint64_t every, std::uint64_t until, const std::vector<int>& states, py::list records,
                        std::size_t keep) {
    const Claim::Guard claimed(*claim_, "watch()", false);
    check_finished("watch()");
    if (states.size() != groups.size())
        throw py::value_error("states: got " + std::to_string(states.size()) + ", needs " +
                              std::to_string(groups.size()));
    for (std::size_t g = 0; g < states.size(); ++g)
        if (states[g] < -1 || states[g] >= groups.rule(static_cast<int>(g)).n_states)
            throw py::value_error("states: got " + std::to_string(states[g]) + ", needs the number of a state or -1");
    engine.watch(every != 0);
    for (std::size_t g = 0; g < states.size(); ++g) engine.groups[g].counted_state = states[g];
    records_.start(every, until, std::move(records), keep);
}

bool Model::run(const std::function<void()>& check_others, std::ptrdiff_t only) {
    memory.check_still_there();
    gradients.check_overlap();
    if (peers_ != nullptr) {
        peers_->begin();
        memory.check_still_there();  // other threads ran meanwhile
        gradients.check_still_there();
        if (check_others) check_others();
    }
    const auto released = [this](auto&& work) {
        if (engine.elements() < kReleaseFrom)
            work();
        else
            without_gil(work);
        if (last_.failed) peers_->raise();
    };
    now_.watch = records_.wants(engine, only);
    released([this] {
        gradients.rows.add_up();
        last_ = engine.has_products() ? engine.start(now_) : engine.step(now_);
    });
    if (last_.taken && engine.has_products()) {
        change_directions(check_others);
        released([this] { engine.finish(now_, last_); });
    }
    grad_norm = last_.grad_norm;
    nonfinite_blocks = last_.nonfinite_blocks;
    if (last_.overflowed != kNone) {
        const std::string message = names.param(last_.overflowed) +
                                    ": the step would take an element beyond 65504, the largest float16; nothing was "
                                    "changed. Use bfloat16 or float32, or a smaller lr";
        PyErr_SetString(PyExc_OverflowError, message.c_str());
        throw py::error_already_set();
    }
    if (last_.taken) steps_taken = steps_taken + 1;
    records_.add(engine, now_, last_, only);
    return last_.taken;
}

// Between the two parts of a step. The called code may run Python code of others, so the arrays are checked again.
void Model::change_directions(const std::function<void()>& check_others) {
    try {
        py::list active;
        for (std::size_t i = 0; i < engine.tensors.size(); ++i) {
            const Tensor& x = engine.tensors[i];
            const bool some = x.size != 0 || engine.sums_of_tensors;  // others may have elements of it
            if (x.grad.data != nullptr && some && groups.rule(x.group).product)
                active.append(py::make_tuple(i, x.direction_norm));
        }
        if (!active.empty()) product_(active);
        memory.check_still_there();
        gradients.check_still_there();
        if (check_others) check_others();
    } catch (...) {
        engine.take_back();
        throw;
    }
}

void Model::warn_of_nonfinite() const {
    if (const std::uint64_t blocks = nonfinite_blocks;
        blocks != 0 &&
        PyErr_WarnFormat(PyExc_RuntimeWarning, 2,
                         "%llu block(s) of 256 8-bit state values hold an infinity or NaN and read as NaN from now on",
                         static_cast<unsigned long long>(blocks)) < 0)
        throw py::error_already_set();
}

void Model::bind(const Tree& tree, py::object grads) {
    const Claim::Guard claimed(*claim_, "grads", false);
    check_finished("grads");
    fix_options();
    gradients.bind(tree, grads.ptr());
}

void Model::prepare(double grad_scale) {
    const Claim::Guard claimed(*claim_, "step()", true);
    begin(grad_scale);
    memory.check_still_there();
    if (!product_.is_none()) product_(py::list());  // of no matrix: it looks at its options alone
}

bool Model::step_bound(double grad_scale) {
    const Claim::Guard claimed(*claim_, "step()", true);
    gradients.check_bound();
    begin(grad_scale);
    gradients.use_bound();
    const bool taken = run();
    warn_of_nonfinite();
    return taken;
}

bool Model::step_tree(const Tree& tree, py::object grads, double grad_scale) {
    const Claim::Guard claimed(*claim_, "step()", true);
    begin(grad_scale);
    gradients.pass(tree, grads.ptr());
    const bool taken = step_passed();
    warn_of_nonfinite();
    return taken;
}

bool Model::step_list(py::list grads, double grad_scale, std::optional<bool> zero_grads) {
    const Claim::Guard claimed(*claim_, "step()", true);
    begin(grad_scale);
    if (zero_grads) gradients.begin(now_.zero_grads = *zero_grads);
    gradients.pass(grads.ptr());
    return step_passed();
}

bool Model::step_passed() {
    // Whatever happens, the gradients are the caller's alone again afterwards.
    struct Release {
        Gradients& gradients;
        ~Release() { gradients.release(); }
    } release{gradients};
    gradients.use_passed();
    const bool taken = run();
    if (taken && now_.zero_grads) gradients.rows.zero();
    return taken;
}

void Model::check_finished(const char* what) const {
    if (!finished_) throw std::runtime_error(std::string(what) + ": this model is not finished");
}

void Model::configure(double max_grad_norm, bool skip_nonfinite, bool zero_grads, std::uint64_t seed) {
    options.max_grad_norm = max_grad_norm;
    options.skip_nonfinite = skip_nonfinite;
    options.zero_grads = zero_grads;
    options.seed = seed;
}

int Model::traverse(visitproc visit, void* arg) const {
    Py_VISIT(product_.ptr());
    if (peers_ != nullptr)
        if (const int stop = peers_->traverse(visit, arg)) return stop;
    if (const int stop = records_.traverse(visit, arg)) return stop;
    if (const int stop = groups.traverse(visit, arg)) return stop;
    if (const int stop = memory.traverse(visit, arg)) return stop;
    return gradients.traverse(visit, arg);
}

void Model::clear() {
    finished_ = false;
    engine.tensors.clear();
    engine.peers = nullptr;
    // What is let go may call this model again: it must find it empty.
    const auto gone =
        std::make_tuple(std::move(groups), std::move(memory), std::move(gradients), std::move(peers_),
                        std::move(records_), std::exchange(product_, py::none()), std::exchange(names.paths, {}));
}

void Model::set_step(std::size_t i, std::uint64_t step) {
    const Claim::Guard claimed(*claim_, "step count", false);
    engine.tensors.at(i).step = step;
}

void Model::set_index(std::size_t i, std::uint64_t index) {
    const Claim::Guard claimed(*claim_, "noise index", false);
    engine.tensors.at(i).index = first_index_ + index;
}

std::vector<double> Model::get_scalars(std::size_t i) const {
    const auto& all = engine.tensors.at(i).scalars;
    return {all.begin(), all.begin() + groups.rule(engine.tensors[i].group).n_scalars};
}

void Model::set_scalars(std::size_t i, const std::vector<double>& values) {
    const Claim::Guard claimed(*claim_, "scalar states", false);
    auto& all = engine.tensors.at(i).scalars;
    const int needed = groups.rule(engine.tensors[i].group).n_scalars;
    if (values.size() != static_cast<std::size_t>(needed))
        throw py::value_error("values: got " + std::to_string(values.size()) + ", needs " + std::to_string(needed));
    std::copy(values.begin(), values.end(), all.begin());
}

}  // namespace fusedstep
