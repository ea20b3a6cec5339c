#include "step.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <optional>
#include <sstream>
#include <vector>

#include "../dispatch.hpp"
#include "../engine/engine.hpp"
#include "../threads/count.hpp"
#include "../threads/float_environment.hpp"
#include "../threads/parallel.hpp"
#include "arguments.hpp"

namespace fusedstep::xla {
namespace {

constexpr std::size_t kOptions = 4;  // grad_scale, max_grad_norm, clip_value, ema_decay
constexpr std::size_t kPlace = 4;    // array and first element, and those of the scales

std::string text(double value) {
    std::ostringstream out;
    out << value;
    return out.str();
}

std::optional<Format> float_format(int dtype) {
    switch (dtype) {
        case kF32:
            return Format::float32;
        case kF64:
            return Format::float64;
        case kF16:
            return Format::float16;
        case kBF16:
            return Format::bfloat16;
        default:
            return std::nullopt;
    }
}

int find_rule(std::string_view name) {
    const KernelTable& kernels = active_kernels();
    for (int r = 0; r < kernels.n_rules; ++r)
        if (name == kernels.rules[r].name && !kernels.rules[r].product && kernels.rules[r].factors[kFloat] == nullptr)
            return r;  // nobody is called in a step here, and states have the parameter's shape
    throw Refused("rule: got '" + std::string(name) + "', needs the name of an update rule", kInternal);
}

// One call: everything is read and checked before the engine writes.
class Call {
public:
    explicit Call(const CallFrame& call)
        : frame_(call),
          number_(find_rule(frame_.text("rule"))),
          rule_(active_kernels().rules[number_]),
          flags_(frame_.integer("flags")),
          width_(1 + kPlace * (static_cast<std::size_t>(rule_.n_states) + 2)),
          rows_(frame_.integers("tensors")),
          arguments_(frame_, rows_.size / width_) {}

    void run() {
        default_threads();  // what the environment says about threads is wrong now or never
        threading();
        const std::size_t count = rows_.size / width_;
        read_values();
        read_step();
        if (rule_.n_scalars != 0)
            scalars_ = arguments_.take({"state.scalars"}, kU32,
                                       2 * static_cast<std::size_t>(rule_.n_scalars) * (rule_.norms ? count : 1));
        if (flags_ & kSkipNonfinite) skipped_ = arguments_.take({"state.skipped"}, kS32, 1);
        if (flags_ & kMeasureNorm) grad_norm_ = arguments_.take({"state.grad_norm"}, kF32, 1);
        if (flags_ & kCountNonfinite) nonfinite_ = arguments_.take({"state.nonfinite_blocks"}, kS32, 1);
        while (arguments_.left() > 2 * count) arguments_.add_array();
        engine_.tensors.resize(count);
        for (std::size_t t = 0; t < count; ++t) read_tensor(t, rows_.data + t * width_);
        for (std::size_t t = 0; t < count; ++t) read_gradient(t);
        arguments_.check_overlap();
        check_scale();
        engine_.prepare();
        write(engine_.step(options_));
    }

private:
    double traced_number(std::size_t i, const std::string& name) const {
        const View view = frame_.argument(i);
        if (view.size == 1 && view.dtype == kF32) return *static_cast<const float*>(view.data);
        if (view.size == 1 && view.dtype == kF64) return *static_cast<const double*>(view.data);
        arguments_.refuse({name.c_str()}, view, "one float32 or float64");
    }

    void read_values() {
        const Span<double> values = frame_.numbers("values"), ranges = frame_.numbers("ranges");
        const Span<std::int64_t> traced = frame_.integers("traced");
        const auto hypers = static_cast<std::size_t>(rule_.n_hypers);
        if (values.size < kOptions + hypers || (values.size - kOptions) % hypers != 0 || traced.size % 2 != 0 ||
            ranges.size != 2 * arguments_.traced())
            throw Refused("values: got " + std::to_string(values.size) + ", needs those of whole groups", kInternal);
        std::vector<double> all(values.data, values.data + values.size);
        for (std::size_t i = 0; i < arguments_.traced(); ++i) {
            const std::string name = line(frame_.text("needs"), 2 * i);
            const double value = traced_number(i, name);
            if (!(value >= ranges[2 * i] && value <= ranges[2 * i + 1]))  // NaN is outside
                throw Refused(name + ": got " + text(value) + ", needs " + line(frame_.text("needs"), 2 * i + 1));
            for (std::size_t pair = 0; pair < traced.size; pair += 2)
                if (traced[pair] == static_cast<std::int64_t>(i))
                    all.at(static_cast<std::size_t>(traced[pair + 1])) = value + 0.0;  // -0 becomes +0
        }
        options_.grad_scale = all[0];
        options_.max_grad_norm = all[1];
        options_.skip_nonfinite = (flags_ & kSkipNonfinite) != 0;
        options_.seed = static_cast<std::uint64_t>(frame_.integer("seed"));
        for (std::size_t at = kOptions; at < all.size(); at += hypers) {
            Group group;
            group.rule = number_;
            std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(at), hypers, group.hypers.begin());
            group.maximize = (flags_ & kMaximize) != 0;
            group.cautious = (flags_ & kCautious) != 0;
            group.clip_value = all[2];
            group.ema_decay = all[3];
            engine_.groups.push_back(group);
        }
    }

    void read_step() {
        step_ = arguments_.take({"state.step"});
        const bool wide = step_.dtype == kS64;
        if (step_.size != 1 || (!wide && step_.dtype != kS32))
            arguments_.refuse({"state.step"}, step_, "one int32 or int64");
        const std::int64_t taken =
            wide ? *static_cast<const std::int64_t*>(step_.data) : *static_cast<const std::int32_t*>(step_.data);
        if (taken < 0 || taken == (wide ? INT64_MAX : std::int64_t{INT32_MAX}))
            throw Refused("state.step: got " + std::to_string(taken) +
                          ", needs 0 (before the first step) or more, and " + "less than the largest " +
                          dtype_text(step_.dtype));
        taken_ = static_cast<std::uint64_t>(taken);
    }

    void read_tensor(std::size_t t, const std::int64_t* row) {
        Tensor& x = engine_.tensors[t];
        if (row[0] < 0 || static_cast<std::size_t>(row[0]) >= engine_.groups.size())
            throw Refused("tensors: got group " + std::to_string(row[0]) + ", needs the number of one", kInternal);
        const View param = arguments_.take({"params", t});
        const std::optional<Format> format = float_format(param.dtype);
        if (!format) arguments_.refuse({"params", t}, param, "float32, float64, float16 or bfloat16");
        x.group = static_cast<int>(row[0]);
        x.index = t;
        x.step = taken_;
        x.size = param.size;
        x.compute = *format == Format::float64 ? kDouble : kFloat;
        x.param = {param.data, nullptr, *format};
        const std::int64_t* place = row + 1;
        read_master(t, place);
        const Group& group = engine_.groups[static_cast<std::size_t>(x.group)];
        const unsigned used = rule_.used_states(rule_.variant(group.hypers.data(), 1));
        for (int s = 0; s < rule_.n_states; ++s) {
            place += kPlace;
            if (place[0] >= 0)
                x.states[static_cast<std::size_t>(s)] = state_stream(t, rule_.states[s], place);
            else if (used >> s & 1u)
                throw Refused(arguments_.name({rule_.states[s].name, t}) + ": got none, needs one", kInternal);
        }
        place += kPlace;
        if (place[0] >= 0) {
            const View average = arguments_.slice(place, x.size);
            if (float_format(average.dtype) != native(x))
                arguments_.refuse({"ema", t}, average, "the parameter's compute type");
            x.ema = average.data;
        }
        for (std::size_t s = 0; s < static_cast<std::size_t>(rule_.n_scalars); ++s) {
            double value;
            std::memcpy(&value, scalar(t, s), sizeof(value));
            x.scalars[s] = value;
        }
    }

    // Where a scalar is: each tensor has its own if they come from sums over it, else all of them share one.
    char* scalar(std::size_t t, std::size_t s) const {
        const std::size_t before = rule_.norms ? t * static_cast<std::size_t>(rule_.n_scalars) : 0;
        return static_cast<char*>(scalars_.data) + (before + s) * sizeof(double);
    }

    static Format native(const Tensor& x) { return x.compute == kDouble ? Format::float64 : Format::float32; }

    void read_master(std::size_t t, const std::int64_t* place) {
        Tensor& x = engine_.tensors[t];
        const bool half = x.param.format == Format::float16, bfloat = x.param.format == Format::bfloat16;
        if (place[0] >= 0) {
            const View master = arguments_.slice(place, x.size);
            const bool split = master.dtype == kS16 && bfloat;
            if (!split && !(master.dtype == kF32 && (half || bfloat)))
                arguments_.refuse({"master", t}, master, "float32 for 16-bit parameters, or int16 for bfloat16");
            x.param.extra = master.data;
            x.param.format = split ? Format::split : half ? Format::float16_master : Format::bfloat16_master;
        } else if ((flags_ & kStochastic) && (half || bfloat)) {
            x.param.format = half ? Format::float16_stochastic : Format::bfloat16_stochastic;
        }
    }

    Stream state_stream(std::size_t t, const State& state, const std::int64_t* place) {
        const Tensor& x = engine_.tensors[t];
        const View values = arguments_.slice(place, x.size);
        if (values.dtype == kU8 && state.kind != kExact) {
            const View scales = arguments_.slice(place + 2, (x.size + kQuantBlock - 1) / kQuantBlock);
            if (scales.dtype != kF32) arguments_.refuse({state.name, t}, scales, "scales of float32");
            return {values.data, scales.data, state.kind == kSigned ? Format::q8_signed : Format::q8_unsigned};
        }
        const std::optional<Format> stored = float_format(values.dtype);
        if (stored != native(x) && (stored != Format::bfloat16 || state.kind == kExact))
            arguments_.refuse({state.name, t}, values, "a format that the rule's states have");
        return {values.data, nullptr, *stored};
    }

    void read_gradient(std::size_t t) {
        Tensor& x = engine_.tensors[t];
        const View grad = arguments_.read({"grads", t});
        const std::optional<Format> format = float_format(grad.dtype);
        if (!format || (*format == Format::float64 && x.compute == kFloat) || grad.size != x.size)
            arguments_.refuse({"grads", t}, grad,
                              std::to_string(x.size) + " of a float dtype no wider than the parameter is computed in");
        static char nothing;
        x.grad = {x.size == 0 ? &nothing : grad.data, nullptr, *format};  // null would mean: no gradient
    }

    void check_scale() const {
        const double inverse = 1.0 / options_.grad_scale;
        const bool single = std::any_of(engine_.tensors.begin(), engine_.tensors.end(),
                                        [](const Tensor& x) { return x.compute == kFloat; });
        if (!std::isfinite(single ? static_cast<float>(inverse) : inverse))
            throw Refused("grad_scale: got " + text(options_.grad_scale) +
                          ", needs a number whose inverse is finite in " + (single ? "float32" : "float64"));
    }

    void write(const StepResult& result) {
        if (result.overflowed != kNone)
            throw Refused(arguments_.name({"params", result.overflowed}) +
                          ": got a step beyond 65504, the largest float16, needs a smaller lr, bfloat16 or float32");
        if (grad_norm_.data != nullptr) *static_cast<float*>(grad_norm_.data) = static_cast<float>(result.grad_norm);
        if (!result.taken) {
            auto& skipped = *static_cast<std::int32_t*>(skipped_.data);
            if (skipped < std::numeric_limits<std::int32_t>::max()) ++skipped;
            return;
        }
        if (step_.dtype == kS64)
            ++*static_cast<std::int64_t*>(step_.data);
        else
            ++*static_cast<std::int32_t*>(step_.data);
        if (nonfinite_.data != nullptr)
            *static_cast<std::int32_t*>(nonfinite_.data) =
                static_cast<std::int32_t>(std::min<std::uint64_t>(result.nonfinite_blocks, INT32_MAX));
        for (std::size_t t = 0; t < engine_.tensors.size(); ++t) {
            for (std::size_t s = 0; s < static_cast<std::size_t>(rule_.n_scalars); ++s) {
                const double value = engine_.tensors[t].scalars[s];
                std::memcpy(scalar(t, s), &value, sizeof(value));
            }
        }
    }

    Frame frame_;
    int number_;
    const RuleEntry& rule_;
    std::int64_t flags_;
    std::size_t width_;  // of a tensor's row of numbers
    Span<std::int64_t> rows_;
    Arguments arguments_;
    std::uint64_t taken_ = 0;
    View step_, scalars_, skipped_, grad_norm_, nonfinite_;
    StepOptions options_;
    Engine engine_;
};

Error* error(const Api& api, const std::string& message, int code) {
    ErrorArguments arguments{sizeof(ErrorArguments), nullptr, message.c_str(), code};
    return api.create_error(&arguments);
}

// A registration, not a step: the runtime asks which version of the interface this is. Its own, if it is one whose
// structures are those of ffi.hpp. One that does not tell its own (jaxlib 0.5) compares for itself.
Error* tell_version(const CallFrame& call, Metadata& metadata) {
    const bool known = call.struct_size >= offsetof(CallFrame, future);
    ApiVersion version{sizeof(ApiVersion), nullptr, kApiMajor, known ? kApiMinor : 0};
    if (call.api != nullptr) {
        version = call.api->version;
        if (!known || version.major != kApiMajor || version.minor < kApiMinor)
            return error(*call.api,
                         "jaxlib: got version " + std::to_string(version.major) + "." + std::to_string(version.minor) +
                             " of XLA's foreign function interface, needs 0.1 or later, below 1.0; use a fusedstep "
                             "that was made for it",
                         kInvalidArgument);
    }
    metadata.api_version.major = version.major;
    metadata.api_version.minor = version.minor;
    metadata.traits = 0;
    return nullptr;
}

}  // namespace

Error* step(CallFrame* call) noexcept {
    for (const Extension* extension = call->extensions; extension != nullptr; extension = extension->next)
        if (extension->type == kMetadataExtension)
            return tell_version(*call, *reinterpret_cast<const MetadataExtension*>(extension)->metadata);
    const Api& api = *call->api;
    try {
        const DefaultFloats guard;  // numbers are converted too
        Call(*call).run();
    } catch (const Refused& refused) {
        return error(api, refused.what(), refused.code);
    } catch (const std::bad_alloc&) {
        return error(api, "step: got no memory for its own lists, needs some", kResourceExhausted);
    } catch (const std::exception& unexpected) {
        return error(api, unexpected.what(), kInternal);
    }
    return nullptr;
}

}  // namespace fusedstep::xla
