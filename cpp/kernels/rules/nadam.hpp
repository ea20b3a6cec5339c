// NAdam, as torch.optim.NAdam. The scheduled momentum's values are multiplied up from step to step.
struct NAdam : Elementwise {
    static constexpr bool kCautious = true;
    static constexpr const char* kName = "nadam";
    static constexpr const char* kHypers[] = {
        "lr", "betas.0", "betas.1", "eps", "weight_decay", "momentum_decay", "decoupled_weight_decay"};
    enum { kLr, kBeta1, kBeta2, kEps, kWeightDecay, kMomentumDecay, kDecoupled };
    static constexpr State kStates[] = {{"exp_avg", kSigned}, {"exp_avg_sq", kUnsigned}};
    static constexpr int kScalars = 1;
    static constexpr const char* kScalarNames[] = {"mu_product"};

    enum : unsigned { kWithDecay = 1 };  // L2; decoupled decay is one multiplication, by 1 if there is none
    static constexpr unsigned kVariants = 2;
    static unsigned variant(const double* h, std::uint64_t) {
        return h[kWeightDecay] != 0.0 && h[kDecoupled] == 0.0 ? kWithDecay : 0u;
    }
    template <class T>
    struct Constants {
        T shrink, decay, keep1, take1, keep2, take2, unbias2, eps, lr_grad, lr_avg;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double* scalars) {
        const double t = static_cast<double>(step);
        const double mu = h[kBeta1] * (1.0 - 0.5 * det_pow(0.96, t * h[kMomentumDecay]));
        const double mu_next = h[kBeta1] * (1.0 - 0.5 * det_pow(0.96, (t + 1.0) * h[kMomentumDecay]));
        const double product = scalars[0] = scalars[0] * mu;
        return {T(h[kDecoupled] != 0.0 ? 1.0 - h[kLr] * h[kWeightDecay] : 1.0),
                T(h[kWeightDecay]),
                T(h[kBeta1]),
                T(1.0 - h[kBeta1]),
                T(h[kBeta2]),
                T(1.0 - h[kBeta2]),
                T(1.0 / (1.0 - power(h[kBeta2], step))),
                T(h[kEps]),
                T(h[kLr] * (1.0 - mu) / (1.0 - product)),
                T(h[kLr] * mu_next / (1.0 - product * mu_next))};
    }

    template <class T>
    static Decay decay(const Constants<T>& c, unsigned variant) {
        return {variant & kWithDecay ? c.decay : 0, c.shrink};
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& m, T& v) {
        p = p * c.shrink;
        if constexpr (V & kWithDecay) g = g + c.decay * p;
        m = c.keep1 * m + c.take1 * g;
        v = c.keep2 * v + c.take2 * (g * g);
        p = p - (c.lr_grad * g + c.lr_avg * m) / (root(v * c.unbias2) + c.eps);
    }
};
