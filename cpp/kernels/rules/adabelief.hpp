// AdaBelief: Adam whose second moment is that of the gradient's distance from the first. eps_root is added inside the
// recursion of that moment and stays in the state, eps in the denominator.
struct AdaBelief : DecayOfParameter {
    static constexpr const char* kName = "adabelief";
    static constexpr const char* kHypers[] = {"lr", "betas.0", "betas.1", "eps", "eps_root", "weight_decay"};
    enum { kLr, kBeta1, kBeta2, kEps, kEpsRoot, kWeightDecay };
    static constexpr State kStates[] = {{"exp_avg", kSigned}, {"exp_avg_var", kUnsigned}};

    template <class T>
    struct Constants {
        T shrink, keep1, take1, keep2, take2, eps_root, unbias2, eps, lr;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double*) {
        return {T(1.0 - h[kLr] * h[kWeightDecay]),
                T(h[kBeta1]),
                T(1.0 - h[kBeta1]),
                T(h[kBeta2]),
                T(1.0 - h[kBeta2]),
                T(h[kEpsRoot]),
                T(1.0 / (1.0 - power(h[kBeta2], step))),
                T(h[kEps]),
                T(h[kLr] / (1.0 - power(h[kBeta1], step)))};
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& m, T& s) {
        p = p * c.shrink;
        m = c.keep1 * m + c.take1 * g;
        const T surprise = g - m;
        s = c.keep2 * s + c.take2 * (surprise * surprise) + c.eps_root;
        p = p - c.lr * (m / (root(s * c.unbias2) + c.eps));
    }
};
