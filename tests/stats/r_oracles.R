# Figures of R for tests/stats/test_r_oracles.py: Rscript tests/stats/r_oracles.R
# Debian: apt install r-cran-metafor r-cran-epir r-cran-rms r-cran-survey r-cran-proc r-cran-sandwich
suppressPackageStartupMessages({
  library(metafor); library(epiR); library(rms); library(survey); library(pROC); library(sandwich)
})
show <- function(name, ...) cat(sprintf("%-28s", name), paste(sprintf("%.10g", c(...)), collapse = ", "), "\n")

cat(R.version.string, "\n")
for (one in c("metafor", "epiR", "rms", "survey", "pROC", "sandwich")) cat(one, as.character(packageVersion(one)), "\n")

# -- sites -----------------------------------------------------------------------------------------------------------
sites <- function(name, hits, sizes, stepadj = 1) {
  at <- escalc("PAS", xi = hits, ni = sizes)
  fit <- rma(at$yi, at$vi, method = "REML", test = "adhoc",
    control = list(threshold = 1e-12, maxiter = 10000, stepadj = stepadj))
  p <- predict(fit, pi.type = "riley", transf = transf.iarcsin)
  show(name, p$pred, p$ci.lb, p$ci.ub, p$pi.lb, p$pi.ub, fit$tau2, fit$I2 / 100, fit$QE, fit$QEp)
}
sites("five alike", c(18, 27, 40, 33, 12), c(20, 30, 40, 40, 15))
sites("six that differ", c(45, 60, 88, 50, 70, 20), c(50, 80, 90, 75, 72, 21))
sites("five equal", rep(45, 5), rep(50, 5))
sites("effective sizes", c(30.4, 27.5, 44, 61.2, 18, 33.3, 0), c(36.5, 30.1, 44, 70.9, 25.7, 40, 12))
sites("beyond all", c(20, 30, 25, 33, 20), c(20, 30, 30, 33, 20))

# metafor's full steps go to and fro for ever; with half of them it converges
logits <- function(hits) escalc("PLO", xi = hits, ni = rep(20, 8), add = 1/2, to = "only0")
for (hits in list(c(19, 20, 20, 17, 20, 20, 20, 20), c(20, 19, 19, 20, 16, 20, 19, 19))) {
  fit <- rma(yi, vi, data = logits(hits), method = "REML",
    control = list(threshold = 1e-12, maxiter = 10000, stepadj = 0.5))
  show("to and fro: tau2", fit$tau2)
}

# -- likelihood ratios: 90 of 100 found, 160 of 200 cleared -----------------------------------------------------------
found <- summary(epi.tests(c(90, 40, 10, 160)))
pick <- function(of) unlist(found[found$statistic == of, c("est", "lower", "upper")])
show("sensitivity", pick("se")); show("specificity", pick("sp"))
show("positive ratio", pick("lr.pos")["est"]); show("negative ratio", pick("lr.neg")["est"])
se <- binom.test(90, 100)$conf.int; sp <- binom.test(160, 200)$conf.int
mover <- function(value, first, second) exp(log(value) + c(-1, 1) * sqrt((log(first))^2 + (log(second))^2))
show("positive ratio, MOVER",
  mover(.9 / .2, c(se[1] / .9, se[2] / .9), c((1 - sp[1]) / .2, (1 - sp[2]) / .2)))
show("negative ratio, MOVER",
  mover(.1 / .8, c((1 - se[2]) / .1, (1 - se[1]) / .1), c(sp[2] / .8, sp[1] / .8)))
at <- function(share, ratio) share * ratio / (share * ratio + 1 - share)
show("PPV at 5 %", at(.05, pick("lr.pos")["est"])); show("NPV at 5 %", 1 - at(.05, pick("lr.neg")["est"]))

# -- 90 images of 45 patients, the same rows as in the test ------------------------------------------------------------
patient <- rep(0:44, 1 + 0:44 %% 3)
row <- seq_along(patient) - 1
score <- ((row * 37) %% 101 + 0.5) / 101
p <- 0.05 + 0.9 * score
y <- as.integer(((row * 53 + patient * 29) %% 97) / 97 < 0.1 + 0.75 * score)
right <- as.integer((patient * 29) %% 47 > 6 | row %% 3 == 0)
show("rows", length(row), sum(y), sum(right))

design <- svydesign(ids = ~patient, weights = ~1, data = data.frame(patient, y, right, logit = qlogis(p)))
mean <- svymean(~right, design, deff = "replace")
show("proportion, SE, deff", coef(mean), SE(mean), deff(mean))
beta <- svyciprop(~right, design, method = "beta", df = degf(design))
show("Korn and Graubard", attr(beta, "ci"))

one <- svyglm(y ~ logit, design, family = quasibinomial())
zero <- svyglm(y ~ 1 + offset(logit), design, family = quasibinomial())
show("slope, SE", coef(one)[2], SE(one)[2]); show("intercept, SE", coef(zero)[1], SE(zero)[1])
exact <- glm.control(epsilon = 1e-14, maxit = 50)
one <- glm(y ~ qlogis(p), family = binomial, control = exact)
zero <- glm(y ~ 1 + offset(qlogis(p)), family = binomial, control = exact)
for (fit in list(one, zero)) show("HC3", rev(sqrt(diag(vcovCL(fit, patient, type = "HC3", cadjust = FALSE))))[1])
all <- val.prob(p, y, pl = FALSE)
show("val.prob", all["Slope"], all["Brier"], all["C (ROC)"])
show("glm intercept", coef(glm(y ~ offset(qlogis(p)), family = binomial))[1])

curve <- roc(y, score, quiet = TRUE, direction = "<")
show("AUC, DeLong variance", auc(curve), var(curve, method = "delong"))
most <- tapply(score, patient, max); any <- tapply(y, patient, max)
by <- roc(any, most, quiet = TRUE, direction = "<")
show("by patient", auc(by), var(by, method = "delong"))

# Obuchowski 1997, formula by formula
x <- score[y == 1]; z <- score[y == 0]; m <- length(x); n <- length(z); k <- 45
higher <- outer(x, z, function(a, b) (a > b) + (a == b) / 2); area <- mean(higher)
sums <- function(values, whose) sapply(0:44, function(i) sum(values[whose == i]))
v10 <- sums(rowMeans(higher) - area, patient[y == 1]); v01 <- sums(colMeans(higher) - area, patient[y == 0])
k10 <- length(unique(patient[y == 1])); k01 <- length(unique(patient[y == 0]))
show("Obuchowski variance", k10 / ((k10 - 1) * m^2) * sum(v10^2) + k01 / ((k01 - 1) * n^2) * sum(v01^2) +
  2 * k / ((k - 1) * m * n) * sum(v10 * v01), k10, k01)

# -- melded upper limit of a difference of two proportions (Fay, Proschan & Brittain 2015), by numerical integration -----
melded <- function(k1, n1, k2, n2) {
  beyond <- function(x) integrate(
    function(l) dbeta(l, k2, n2 - k2 + 1) * pbeta(l + x, k1 + 1, n1 - k1, lower.tail = FALSE),
    0, 1 - x, rel.tol = 1e-12, subdivisions = 5000)$value
  uniroot(function(x) beyond(x) - 0.025, c(1e-4, 0.9999), tol = 1e-12)$root
}
for (a in list(c(56, 70, 48, 80), c(35, 36, 795, 1000), c(95, 100, 85, 100), c(58.5, 60.5, 50.25, 61.5)))
  cat("melded", a, sprintf("%.8f", do.call(melded, as.list(a))), "\n")
