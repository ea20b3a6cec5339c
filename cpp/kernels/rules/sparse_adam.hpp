// Adam for gradients of some rows of a table, as torch.optim.SparseAdam: the rows without a gradient, and their
// moments, stay as they are, and eps is not scaled by the bias correction. The engine brings one row at a time.
struct SparseAdam : Elementwise {
    static constexpr const char* kName = "sparse_adam";
    static constexpr const char* kHypers[] = {"lr", "betas.0", "betas.1", "eps"};
    enum { kLr, kBeta1, kBeta2, kEps };
    static constexpr State kStates[] = {{"exp_avg", kSigned}, {"exp_avg_sq", kUnsigned}};

    template <class T>
    struct Constants {
        T keep1, take1, keep2, take2, eps, lr;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t step, double*) {
        const double correction1 = 1.0 - power(h[kBeta1], step);
        const double correction2 = 1.0 - power(h[kBeta2], step);
        return {T(h[kBeta1]),       T(1.0 - h[kBeta1]), T(h[kBeta2]),
                T(1.0 - h[kBeta2]), T(h[kEps]),         T(h[kLr] * std::sqrt(correction2) / correction1)};
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& m, T& v) {
        m = c.keep1 * m + c.take1 * g;
        v = c.keep2 * v + c.take2 * (g * g);
        p = p - c.lr * (m / (root(v) + c.eps));
    }
};
