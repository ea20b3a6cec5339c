// Averaged stochastic gradient descent, as torch.optim.ASGD.
struct Asgd : Elementwise {
    static constexpr const char* kName = "asgd";
    static constexpr const char* kHypers[] = {"lr", "lambd", "alpha", "t0", "weight_decay"};
    enum { kLr, kLambd, kAlpha, kT0, kWeightDecay };
    static constexpr State kStates[] = {{"ax", kExact}};  // parameters, not a moment
    static constexpr int kScalars = 2;
    static constexpr const char* kScalarNames[] = {"eta", "mu"};

    enum : unsigned { kWithDecay = 1 };
    static constexpr unsigned kVariants = 2;
    static unsigned variant(const double* h, std::uint64_t) { return h[kWeightDecay] != 0.0 ? kWithDecay : 0u; }
    template <class T>
    struct Constants {
        T shrink, decay, eta, mu;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double* scalars) {
        const double t = static_cast<double>(step), eta = scalars[0], mu = scalars[1];
        const double late = t - h[kT0];
        scalars[0] = h[kLr] / det_pow(1.0 + h[kLambd] * h[kLr] * t, h[kAlpha]);  // of the next step
        scalars[1] = 1.0 / (late > 1.0 ? late : 1.0);
        return {T(1.0 - h[kLambd] * eta), T(h[kWeightDecay]), T(eta), T(mu)};
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& average) {
        if constexpr (V & kWithDecay) g = g + c.decay * p;
        p = p * c.shrink - c.eta * g;
        average = c.mu == T{} + 1 ? p : average + c.mu * (p - average);
    }
};
