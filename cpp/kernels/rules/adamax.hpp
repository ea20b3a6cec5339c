// Adamax, as torch.optim.Adamax: eps is added to the gradient's magnitude, so that the norm is never zero. eps_norm is
// added to the norm itself, as Keras has it.
struct Adamax : DecayInGradient {
    static constexpr const char* kName = "adamax";
    static constexpr const char* kHypers[] = {"lr", "betas.0", "betas.1", "eps", "weight_decay", "eps_norm"};
    enum { kLr, kBeta1, kBeta2, kEps, kWeightDecay, kEpsNorm };
    static constexpr State kStates[] = {{"exp_avg", kSigned}, {"exp_inf", kUnsigned}};

    enum : unsigned { kWithDecay = 1 };
    static constexpr unsigned kVariants = 2;
    static unsigned variant(const double* h, std::uint64_t) { return h[kWeightDecay] != 0.0 ? kWithDecay : 0u; }
    template <class T>
    struct Constants {
        T lr, decay, keep1, take1, keep2, eps, eps_norm;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double*) {
        return {T(h[kLr] / (1.0 - power(h[kBeta1], step))),
                T(h[kWeightDecay]),
                T(h[kBeta1]),
                T(1.0 - h[kBeta1]),
                T(h[kBeta2]),
                T(h[kEps]),
                T(h[kEpsNorm])};
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& m, T& norm) {
        if constexpr (V & kWithDecay) g = g + c.decay * p;
        m = c.keep1 * m + c.take1 * g;
        norm = larger(c.keep2 * norm, magnitude(g) + c.eps);
        p = p - c.lr * (m / (norm + c.eps_norm));
    }
};
