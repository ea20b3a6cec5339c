// Steps every rule in every storage format 50 times over fixed data and prints one digest per instruction set: the same
// on every machine, compiler and thread count. Without Python, so that it also runs where there is none.
//
//   fusedstep_digest [instruction set ...]
//
// tests/test_digest.py repeats all of this in NumPy; it reads the tables below from this file.
#include <cfenv>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "dispatch.hpp"
#include "engine/engine.hpp"
#include "threads/count.hpp"
#include "threads/parallel.hpp"

using namespace fusedstep;

namespace {

constexpr std::uint64_t kSteps = 50;
constexpr std::size_t kSizes[] = {1, 300, 1100};
constexpr std::size_t kLargeSizes[] = {50000, 7, 20000};  // enough for four threads
constexpr std::uint64_t kLargeSteps = 3;

// What a caller may have set; a machine without rounding modes does not define them.
constexpr int kRoundings[] = {
    FE_TONEAREST,
#if defined(FE_UPWARD)
    FE_UPWARD,
#endif
#if defined(FE_TOWARDZERO)
    FE_TOWARDZERO,
#endif
};

// Hyper-parameters by name; all others are 0.5.
struct NamedValue {
    const char* name;
    double value;
};
constexpr NamedValue kValues[] = {
    {"lr", 0.01},
    {"momentum", 0.9},
    {"dampening", 0.0},
    {"weight_decay", 0.02},
    {"beta", 0.9},
    {"betas.0", 0.9},
    {"betas.1", 0.99},
    {"betas.2", 0.999},
    {"alpha_warmup", 3.0},
    {"beta3_warmup", 4.0},
    {"alpha", 0.9},
    {"eps", 1e-6},
    {"eps_root", 1e-6},
    {"etas.1", 1.25},
    {"step_sizes.0", 0.00001},
    {"gamma", 0.1},
    {"t0", 10.0},
    {"warmup_steps", 5.0},
    {"lambd", 0.0001},
    {"step_sizes.1", 2.},
    {"eps.0", 1e-6},
    {"eps.1", 1e-3},
    {"d", 1.0},
    {"beta2_decay", -0.8},
    {"d0", 0.1},
    {"growth_rate", 1.5},
};
// Options that are on or off; everything runs with all off and with all on.
constexpr const char* kFlags[] = {
    "nesterov",        "bias_correction",   "centered",        "amsgrad",        "decoupled_weight_decay",
    "lr_in_momentum",  "no_prox",           "clipping",        "grad_averaging", "relative_step",
    "scale_parameter", "like_transformers", "safeguard_warmup"};

// How parameter, gradient and states are stored, and whether the parameter has a float32 master.
struct Storage {
    Format param, grad, states;
    bool master;
};
constexpr Format f32 = Format::float32, f64 = Format::float64, f16 = Format::float16, bf16 = Format::bfloat16,
                 f16_noisy = Format::float16_stochastic, bf16_noisy = Format::bfloat16_stochastic,
                 split = Format::split, q8 = Format::q8_signed;
constexpr Storage kStorages[] = {
    {f32, f32, f32, false},        {f64, f64, f64, false},   {f32, bf16, bf16, false},      {f32, f16, q8, false},
    {f64, f32, q8, false},         {f16, f16, f32, false},   {f16_noisy, f16, bf16, false}, {bf16, f32, f32, false},
    {bf16_noisy, bf16, q8, false}, {split, bf16, q8, false}, {f16, f16, f32, true},         {split, bf16, f32, false},
};

double value_of(const std::string& name, bool flags) {
    for (const char* flag : kFlags)
        if (name == flag) return flags ? 1.0 : 0.0;
    for (const NamedValue& known : kValues)
        if (name == known.name) return known.value;
    return 0.5;
}

// Multiples of 1/128 from -1 to below 1: exact in every format. `which` tells arrays and steps apart.
std::vector<float> data(std::size_t n, std::uint32_t which) {
    std::vector<float> values(n);
    for (std::size_t i = 0; i < n; ++i) {
        std::uint32_t x = static_cast<std::uint32_t>(i) * 2654435761u + which * 0x9E3779B9u;
        x = (x ^ (x >> 15)) * 0x2C1B3C6Du;
        x = (x ^ (x >> 12)) * 0x297A2D39u;
        x ^= x >> 15;
        values[i] = static_cast<float>(static_cast<int>(x & 0xFFu) - 128) / 128.0f;
    }
    return values;
}

// An array and what belongs to it, in one of the formats.
class Memory {
public:
    Memory(Format format, std::size_t n) : format_(format), data_(n + 1), extra_(n + 1) {}

    Stream stream() {
        const bool second = format_ == Format::split || format_ == Format::q8_signed || format_ == Format::q8_unsigned;
        return {data_.data(), second ? extra_.data() : nullptr, format_};
    }

    void fill(const std::vector<float>& values) {
        const Stream to = stream();
        active_kernels().encode[static_cast<int>(format_)][kFloat](values.data(), to.data, to.extra, values.size(), {});
    }

    void hash(std::uint64_t& digest, std::size_t n) const {
        const FormatSizes sizes = kFormatSizes[static_cast<int>(format_)];
        const bool blocks = format_ == Format::q8_signed || format_ == Format::q8_unsigned;
        add(digest, data_.data(), n, sizes.item);
        if (blocks)
            add(digest, extra_.data(), (n + kQuantBlock - 1) / kQuantBlock, sizeof(float));
        else
            add(digest, extra_.data(), n, sizes.extra);
    }

private:
    // FNV-1a (Fowler, Noll and Vo) over the items' bytes, the lowest first on every machine.
    static void add(std::uint64_t& digest, const void* items, std::size_t n, std::size_t item) {
        const std::uint16_t one = 1;
        const bool little = *reinterpret_cast<const unsigned char*>(&one) == 1;
        const auto* bytes = static_cast<const unsigned char*>(items);
        for (std::size_t i = 0; i < n; ++i)
            for (std::size_t b = 0; b < item; ++b)
                digest = (digest ^ bytes[i * item + (little ? b : item - 1 - b)]) * 0x100000001B3u;
    }

    Format format_;
    std::vector<double> data_, extra_;  // room for any format
};

// Which options a run has.
struct Mode {
    bool flags, cautious;
};
constexpr Mode kPlain{false, false}, kAll{true, false}, kCautious{true, true};

std::uint64_t run(int rule, const Storage& storage, const Mode& mode, const std::vector<std::size_t>& sizes,
                  std::uint64_t steps, int rounding = FE_TONEAREST) {
    const RuleEntry& entry = active_kernels().rules[rule];
    const Format compute = storage.param == f64 ? f64 : f32;
    const bool flags = mode.flags;
    Engine engine;
    Group group;
    group.rule = rule;
    for (int h = 0; h < entry.n_hypers; ++h)
        group.hypers[static_cast<std::size_t>(h)] = value_of(entry.hypers[h], flags);
    group.maximize = flags;
    group.cautious = mode.cautious;
    if (flags) group.clip_value = 0.75;
    group.ema_decay = 0.9;
    engine.groups.push_back(group);

    const unsigned used = entry.used_states(entry.variant(group.hypers.data(), 1));
    std::vector<std::vector<Memory>> arrays;  // by tensor: parameter, copy, average, states; direction, gradient
    for (std::size_t t = 0; t < sizes.size(); ++t) {
        const std::size_t n = sizes[t];
        const auto first = data(n, static_cast<std::uint32_t>(t));
        std::vector<Memory> own;
        own.emplace_back(storage.master ? f32 : storage.param, n);
        own.emplace_back(storage.param, n);
        own.emplace_back(compute, n);
        own[0].fill(first);
        if (storage.master) own[1].fill(first);
        own[2].fill(first);
        for (int s = 0; s < entry.n_states; ++s) {
            const StateKind kind = entry.states[s].kind;
            const Format format = kind == kExact || storage.states == f32 || storage.states == f64 ? compute
                                  : storage.states == q8 && kind == kUnsigned                      ? Format::q8_unsigned
                                                                                                   : storage.states;
            own.emplace_back(format, n);
            own.back().fill(std::vector<float>(n, kind == kExact ? 0.5f : 0.0f));
        }
        own.emplace_back(compute, n);  // the direction of a rule with a product, which nobody changes here
        own.emplace_back(storage.grad, n);
        arrays.push_back(std::move(own));
    }
    for (std::size_t t = 0; t < sizes.size(); ++t) {
        Tensor x;
        x.size = sizes[t];
        x.index = t;
        x.compute = compute == f64 ? kDouble : kFloat;
        x.param = arrays[t][0].stream();
        if (storage.master)
            x.param = {arrays[t][1].stream().data, x.param.data,
                       storage.param == f16 ? Format::float16_master : Format::bfloat16_master};
        if (flags) x.ema = arrays[t][2].stream().data;
        for (int s = 0; s < entry.n_states; ++s)
            if (used >> s & 1u)
                x.states[static_cast<std::size_t>(s)] = arrays[t][static_cast<std::size_t>(3 + s)].stream();
        if (entry.factor_states.rows >= 0) {  // the flattest matrix of so many elements; vectors for one in three
            std::size_t rows = 1;
            for (std::size_t r = 2; r * r <= x.size && t % 3 != 2; ++r)
                if (x.size % r == 0) rows = r;
            if (rows > 1 || entry.factor_states.columns < 0) {
                x.factors.states = entry.factor_states;
                x.factors.batches = 1, x.factors.rows = rows, x.factors.columns = x.size / rows;
                for (const std::size_t s : {0u, 1u}) x.states[s] = arrays[t][3 + s].stream();
            }
        }
        if (entry.product) x.direction = arrays[t][arrays[t].size() - 2].stream();
        x.grad = arrays[t].back().stream();
        x.scalars.fill(1.0);
        engine.tensors.push_back(x);
    }
    engine.prepare();

    StepOptions options;
    options.seed = 7;
    options.grad_scale = flags ? 3.0 : 1.0;
    options.max_grad_norm = flags ? 4.0 : 0.0;
    for (std::uint64_t step = 1; step <= steps; ++step) {
        for (std::size_t t = 0; t < sizes.size(); ++t)
            arrays[t].back().fill(data(sizes[t], static_cast<std::uint32_t>(100 * step + t)));
        std::fesetround(rounding);
        engine.step(options);
        std::fesetround(FE_TONEAREST);
    }

    std::uint64_t digest = 0xCBF29CE484222325u;
    for (std::size_t t = 0; t < sizes.size(); ++t) {
        arrays[t][0].hash(digest, sizes[t]);
        if (storage.master) arrays[t][1].hash(digest, sizes[t]);
        if (flags) arrays[t][2].hash(digest, sizes[t]);
        for (int s = 0; s < entry.n_states; ++s)
            if (used >> s & 1u) arrays[t][static_cast<std::size_t>(3 + s)].hash(digest, sizes[t]);
    }
    return digest;
}

// The modes of a rule.
std::vector<Mode> modes(int rule) {
    if (active_kernels().rules[rule].decay[kFloat] == nullptr) return {kPlain, kAll};
    return {kPlain, kAll, kCautious};
}

// Whether steps end the same whatever rounding mode the caller has set.
bool roundings_agree(int rule) {
    const std::vector<std::size_t> sizes(std::begin(kSizes), std::end(kSizes));
    for (const Storage& storage : {kStorages[0], kStorages[1], kStorages[8]}) {
        const Mode mode = modes(rule).back();
        const std::uint64_t expected = run(rule, storage, mode, sizes, kLargeSteps);
        for (const int rounding : kRoundings) {
            if (run(rule, storage, mode, sizes, kLargeSteps, rounding) != expected) {
                std::printf("%s differs with another rounding mode\n", active_kernels().rules[rule].name);
                return false;
            }
        }
    }
    return true;
}

// Whether large tensors end the same on any number of threads, of whichever kind.
bool threads_agree(int rule) {
    const std::vector<std::size_t> sizes(std::begin(kLargeSizes), std::end(kLargeSizes));
    const bool openmp = !find_openmp().description.empty();
    for (const Storage& storage : {kStorages[0], kStorages[8]}) {
        set_num_threads(1);
        const Mode mode = modes(rule).back();
        const std::uint64_t expected = run(rule, storage, mode, sizes, kLargeSteps);
        for (const char* team : {"pool", "openmp"}) {
            if (team == std::string("openmp") && !openmp) continue;
            set_threading(team);
            for (const int threads : {2, 3, 4}) {
                set_num_threads(threads);
                pretend_cpus(threads);
                if (run(rule, storage, mode, sizes, kLargeSteps) != expected) {
                    std::printf("%s differs on %d threads (%s)\n", active_kernels().rules[rule].name, threads, team);
                    return false;
                }
            }
        }
    }
    return true;
}

}  // namespace

int main(int argc, char** argv) {
    const std::vector<std::string> chosen =
        argc > 1 ? std::vector<std::string>(argv + 1, argv + argc) : available_isas();
    bool agree = true;
    for (const std::string& isa : chosen) {
        set_isa(isa);
        std::uint64_t all = 0;
        for (int rule = 0; rule < active_kernels().n_rules; ++rule) {
            std::uint64_t digest = 0;
            set_num_threads(1);
            for (const Storage& storage : kStorages)
                for (const Mode& mode : modes(rule))
                    digest = digest * 31 + run(rule, storage, mode, {std::begin(kSizes), std::end(kSizes)}, kSteps);
            agree = roundings_agree(rule) && threads_agree(rule) && agree;
            std::printf("%s %s %016llx\n", isa.c_str(), active_kernels().rules[rule].name,
                        static_cast<unsigned long long>(digest));
            all = all * 31 + digest;
        }
        std::printf("%s all %016llx\n", isa.c_str(), static_cast<unsigned long long>(all));
    }
    return agree ? 0 : 1;
}
