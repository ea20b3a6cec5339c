// Schedule-free SGD and AdamW: steps are taken at z, gradients at y between z and its running average x. In the form of
// the authors' code, which keeps y (the parameter) and z and never writes x out.
struct Averaging {
    double lr, weight;  // the learning rate after warm-up, and the weight of the new z in the average x
};
// A step counts in the average as t**r * lr_max**weight_lr_power. Scalars: the largest learning rate, the sum of
// counts.
inline Averaging averaging(double lr, double warmup_steps, double r, double weight_lr_power, std::uint64_t step,
                           double* scalars) {
    const double t = static_cast<double>(step);
    if (t < warmup_steps) lr = lr * (t / warmup_steps);
    scalars[0] = lr > scalars[0] ? lr : scalars[0];
    const double count = det_pow(t, r) * det_pow(scalars[0], weight_lr_power);
    scalars[1] = scalars[1] + count;
    return {lr, scalars[1] == 0.0 ? 0.0 : count / scalars[1]};
}

struct ScheduleFreeSgd : Elementwise {
    static constexpr const char* kName = "schedule_free_sgd";
    static constexpr const char* kHypers[] = {"lr", "momentum", "weight_decay", "warmup_steps", "r", "weight_lr_power"};
    enum { kLr, kMomentum, kWeightDecay, kWarmupSteps, kR, kWeightLrPower };
    static constexpr State kStates[] = {{"z", kExact}};  // parameters, not a moment
    static constexpr int kScalars = 2;
    static constexpr const char* kScalarNames[] = {"lr_max", "weight_sum"};

    enum : unsigned { kWithDecay = 1 };
    static constexpr unsigned kVariants = 2;
    static unsigned variant(const double* h, std::uint64_t) { return h[kWeightDecay] != 0.0 ? kWithDecay : 0u; }
    template <class T>
    struct Constants {
        T decay, weight, lr_y, lr_z;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double* scalars) {
        const auto [lr, weight] = averaging(h[kLr], h[kWarmupSteps], h[kR], h[kWeightLrPower], step, scalars);
        return {T(h[kWeightDecay]), T(weight), T(lr * (1.0 - h[kMomentum] * (1.0 - weight))), T(lr)};
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& y, T g, T& z) {
        if constexpr (V & kWithDecay) g = g + c.decay * y;
        y = y + c.weight * (z - y) - c.lr_y * g;
        z = z - c.lr_z * g;
    }
};

struct ScheduleFreeAdamW : Elementwise {
    static constexpr const char* kName = "schedule_free_adamw";
    static constexpr const char* kHypers[] = {"lr",           "betas.0",      "betas.1", "eps",
                                              "weight_decay", "warmup_steps", "r",       "weight_lr_power"};
    enum { kLr, kBeta1, kBeta2, kEps, kWeightDecay, kWarmupSteps, kR, kWeightLrPower };
    static constexpr State kStates[] = {{"z", kExact}, {"exp_avg_sq", kUnsigned}};
    static constexpr int kScalars = 2;
    static constexpr const char* kScalarNames[] = {"lr_max", "weight_sum"};

    enum : unsigned { kWithDecay = 1 };
    static constexpr unsigned kVariants = 2;
    static unsigned variant(const double* h, std::uint64_t) { return h[kWeightDecay] != 0.0 ? kWithDecay : 0u; }
    template <class T>
    struct Constants {
        T decay, keep2, take2, unbias2, eps, weight, lr_y, lr_z;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double* scalars) {
        const auto [lr, weight] = averaging(h[kLr], h[kWarmupSteps], h[kR], h[kWeightLrPower], step, scalars);
        return {T(h[kWeightDecay]),
                T(h[kBeta2]),
                T(1.0 - h[kBeta2]),
                T(1.0 / (1.0 - power(h[kBeta2], step))),
                T(h[kEps]),
                T(weight),
                T(lr * (1.0 - h[kBeta1] * (1.0 - weight))),
                T(lr)};
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& y, T g, T& z, T& v) {
        v = c.keep2 * v + c.take2 * (g * g);
        T change = g / (root(v * c.unbias2) + c.eps);
        if constexpr (V & kWithDecay) change = change + c.decay * y;
        y = y + c.weight * (z - y) - c.lr_y * change;
        z = z - c.lr_z * change;
    }
};
